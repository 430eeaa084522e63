"""What scoring and a training step cost on a GPU, and whether the scores are those of the CPU.

    python -m benchmarks.device

Needs PyTorch and MONAI only: no server, no data.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from monai.losses import DiceCELoss
from monai.networks.nets import SegResNet
from torch import nn

from tasks.segmentation.inferer import WindowInferer
from tasks.segmentation.networks import Architecture
from tasks.segmentation.records import Scorer
from tasks.segmentation.whole import WholeNetwork

LABELS = ("a", "b")
REPEATS = 7


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of a call, and the largest memory in GiB, after one call to warm up."""
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    found = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return statistics.median(found), torch.cuda.max_memory_allocated() / 2**30


def agreement() -> tuple[float, float]:
    """Largest relative difference of a score between CPU and GPU, and the cosine of the embeddings."""
    torch.manual_seed(0)
    architecture = Architecture(2, 3, levels=3, first_features=16, norm="instance", activation="leakyrelu")
    networks = [architecture.build().eval() for _ in range(4)]
    image, windows = torch.rand(2, 40, 48, 40), WindowInferer((32, 32, 32), 0.25, architecture.divisor)
    cpu, gpu = (
        Scorer(
            *(networks[0].to(device), [network.to(device) for network in networks[1:]]), windows, LABELS, device=device
        )("image", image)
        for device in ("cpu", "cuda")
    )
    worst = max(abs(gpu.scores[name] - value) / abs(value) for name, value in cpu.scores.items())
    pair = (torch.from_numpy(each.embedding) for each in (cpu, gpu))
    return worst, float(torch.nn.functional.cosine_similarity(*pair, dim=0))


def scoring(name: str, network: nn.Module, divisor: int) -> str:
    """A row of the table: one pass over a volume, and a full record."""
    network = network.cuda().eval()
    volume, windows = torch.rand(1, 192, 192, 128), WindowInferer((128, 128, 128), 0.5, divisor)
    scorer = Scorer(network, [], windows, LABELS, device="cuda")

    def one_pass() -> None:
        with torch.inference_mode(), torch.autocast("cuda"):
            windows(volume[None].cuda(), network)

    once, once_memory = seconds(one_pass)
    record, memory = seconds(lambda: scorer("image", volume))
    return f"| {name} | {once:.3f} | {once_memory:.1f} | {record:.3f} | {memory:.1f} | {record / once:.1f} |"


def training(name: str, batch: int, side: int, amp: bool) -> str:
    """A row of the table: one step of a training."""
    torch.manual_seed(0)
    network = Architecture(1, 3).build().cuda().train()
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, nesterov=True)
    scaler = torch.amp.GradScaler("cuda", enabled=amp)
    loss_function = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
    image = torch.rand(batch, 1, side, side, side, device="cuda")
    label = (image > 0.7).float()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", enabled=amp):
            loss = loss_function(network(image), label)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    taken, memory = seconds(step)
    return f"| {name} | {'mixed' if amp else 'float32'} | {taken:.3f} | {memory:.1f} |"


def main() -> None:
    """Print Markdown tables."""
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}\n")
    worst, cosine = agreement()
    print(f"largest relative difference of a score {worst:.1e}, cosine of the embeddings {cosine:.6f}\n")
    print("| network | one pass, s | GiB | record, s | GiB | record in passes |\n| --- | --- | --- | --- | --- | --- |")
    print(scoring("U-Net of `paper`, split before its dropout layer", Architecture(1, 3).build(), 16))
    whole = WholeNetwork(SegResNet(3, 16, 1, 3, dropout_prob=0.2), "down_layers.3", 8)
    print(scoring("SegResNet in `WholeNetwork`", whole, 8))
    print("\n| training step | precision | s | GiB |\n| --- | --- | --- | --- |")
    for amp in (True, False):
        print(training("`paper`, 2 patches of 128^3", 2, 128, amp))
        print(training("`pcdal`, 4 patches of 96^3", 4, 96, amp))


if __name__ == "__main__":
    main()
