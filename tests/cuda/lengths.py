"""The prompts of the annotation work: how long each is and how long its answer gets.

    python3 lengths.py OUT.json [--count 1000] [--longest 512] [--answer 256]

Random weights end no answer sensibly, so every prompt has a length of its own at which
its answer stops. Both are drawn log-normally, independent of each other, the same for
the same seed: {"seed": ..., "prompt_tokens": [...], "new_tokens": [...]}.
"""

import argparse
import json
import math
import random

arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
arguments.add_argument("out")
arguments.add_argument("--count", type=int, default=1000)
arguments.add_argument("--longest", type=int, default=512)
arguments.add_argument("--answer", type=int, default=256)
arguments.add_argument("--seed", type=int, default=1)
args = arguments.parse_args()

g = random.Random(args.seed)


def draw(median: float, sigma: float, low: int, high: int) -> int:
    return max(low, min(high, round(g.lognormvariate(math.log(median), sigma))))


rows = [
    (
        draw(args.longest / 4, 0.5, max(1, args.longest // 16), args.longest),
        draw(args.answer / 2.5, 0.6, max(1, args.answer // 32), args.answer),
    )
    for _ in range(args.count)
]
with open(args.out, "w") as file:
    json.dump(
        {"seed": args.seed, "prompt_tokens": [p for p, _ in rows], "new_tokens": [n for _, n in rows]}, file
    )
prompts, answers = (sorted(column) for column in zip(*rows))
print(
    f"{args.count} prompts of {prompts[0]} to {prompts[-1]} tokens (median {prompts[args.count // 2]}), "
    f"answers of {answers[0]} to {answers[-1]} (median {answers[args.count // 2]})"
)
