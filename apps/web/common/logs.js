// The page at /logs/ : the last lines of the log, again every few seconds if the address says `refresh`.
const query = new URLSearchParams(location.search);
const log = document.getElementById('log');
const notice = document.getElementById('notice');

async function show() {
  const asked = new URLSearchParams({ lines: query.get('lines') ?? '300', text: 'true' });
  try {
    const answer = await fetch(`?${asked}`);
    if (!answer.ok) {
      throw new Error(`${answer.status}: ${await answer.text()}`);
    }
    log.textContent = await answer.text();
    notice.hidden = true;
    scrollTo(0, document.body.scrollHeight);
  } catch (error) {
    notice.textContent = `The log cannot be read: ${error.message}`;
    notice.hidden = false;
  }
}

await show();
const seconds = Number(query.get('refresh')) || 0;
if (seconds > 0) {
  setInterval(show, 1000 * Math.max(seconds, 3));
}
