"""NeuMF: samples per second against a plain torch DataLoader loop, with the same figures.

    python benchmarks/neumf.py [--users 6040] [--items 3706] [--positives 400000] [--epochs 3] [--device cpu]

Both train the same network from the same first weights on the same events for the same number of epochs; what differs
is how batches are made: one draw of a whole epoch's negatives on the device, or a Dataset that draws them sample by
sample as in the reference implementations. A sample is one user-item pair with its label, positive or drawn. On a CPU
both use one thread and their seconds are the process's own, so that other work on the machine does not count.
"""

import argparse
import json
import time

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mlloop.models.neumf import Negatives, Network, run_epoch, validation_ndcg
from mlloop.models.perceptron import epoch_generator, one_thread


class Pairs(Dataset):
    """One positive or drawn negative at a time, as a plain loop has them."""

    def __init__(self, users, items, n_items: int, count: int, seed: int):
        self.users, self.items, self.n_items, self.count = users, items, n_items, count
        self.known = set(zip(users.tolist(), items.tolist(), strict=True))
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.users) * (1 + self.count)

    def __getitem__(self, index: int):
        row = index // (1 + self.count)
        user = int(self.users[row])
        if index % (1 + self.count) == 0:
            return user, int(self.items[row]), 1.0
        item = int(self.rng.integers(self.n_items))
        while (user, item) in self.known:
            item = int(self.rng.integers(self.n_items))
        return user, item, 0.0


def plain_epoch(network, optimiser, loader, device) -> None:
    """A textbook loop over a DataLoader."""
    for user, item, label in loader:
        optimiser.zero_grad()
        logits = network(user.to(device), item.to(device)[:, None])[:, 0]
        torch.nn.functional.binary_cross_entropy_with_logits(logits, label.float().to(device)).backward()
        optimiser.step()


def world(users: int, items: int, positives: int, seed: int = 0):
    """Positives (n,) of users with tastes: item popularity is Zipf's, each user prefers one of 20 groups of items."""
    rng = np.random.default_rng(seed)
    popular = 1 / np.arange(1, items + 1) ** 0.8
    group = rng.integers(0, 20, items)
    user = np.sort(rng.integers(0, users, positives))
    item = np.empty(positives, dtype=int)
    for taste in range(20):
        mine = user % 20 == taste
        weight = popular * np.where(group == taste, 8.0, 1.0)
        item[mine] = rng.choice(items, mine.sum(), p=weight / weight.sum())
    pairs = np.unique(np.stack([user, item], axis=1), axis=0)
    held = rng.random(len(pairs)) < 0.02
    return pairs[~held], pairs[held]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in (("users", 6040), ("items", 3706), ("positives", 400_000), ("epochs", 3), ("batch", 2048)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    train, held = world(given.users, given.items, given.positives)
    device = torch.device(given.device)
    rows, columns = (torch.as_tensor(train[:, c], device=device) for c in (0, 1))
    asked = [torch.as_tensor(held[:, c], device=device) for c in (0, 1)]
    drawn = Negatives(rows, columns, given.items).draw(asked[0], 99, epoch_generator(0, -2, device))
    report = {
        "device": str(device),
        "positives": len(train),
        "samples_per_epoch": 5 * len(train),
        "batch_samples": 5 * given.batch,
    }
    for name in ("vectorised", "plain"):
        network = Network(given.users, given.items, "neumf", 16, [32, 16], seed=0).to(device)
        fused = (
            True if name == "vectorised" else None
        )  # as `train` of mlloop.models.perceptron; a plain loop has the default
        optimiser = torch.optim.Adam(network.parameters(), lr=0.002, fused=fused)
        negatives = Negatives(rows, columns, given.items)
        pairs = Pairs(train[:, 0], train[:, 1], given.items, 4, seed=0)
        loader = DataLoader(pairs, batch_size=5 * given.batch, shuffle=True)
        took = []
        clock = time.process_time if device.type == "cpu" else time.perf_counter
        with one_thread(device):
            for epoch in range(given.epochs):
                began = clock()
                if name == "plain":
                    plain_epoch(network, optimiser, loader, device)
                else:
                    weights = torch.ones(len(rows), device=device)
                    run_epoch(
                        network,
                        optimiser,
                        negatives,
                        rows,
                        columns,
                        weights,
                        4,
                        given.batch,
                        epoch_generator(0, epoch, device),
                    )
                if device.type == "cuda":
                    torch.cuda.synchronize()
                took.append(clock() - began)
        best = min(took[1:] or took)
        report[name] = {
            "epoch_s": round(best, 3),
            "samples_per_s": round(5 * len(train) / best),
            "ndcg_at_10_of_100": round(validation_ndcg(network, asked[0], asked[1], drawn), 4),
        }
        print(name, report[name], flush=True)
    report["times_faster"] = round(report["vectorised"]["samples_per_s"] / report["plain"]["samples_per_s"], 1)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
