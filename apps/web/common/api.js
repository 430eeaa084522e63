// The page at / : all routes, from the server's own description of them.
window.SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#api',
  deepLinking: true,
  defaultModelsExpandDepth: -1,
  validatorUrl: null,
});
