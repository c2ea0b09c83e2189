"""The report of `make bench-cuda`; nothing but the standard library.

    report.py machine --when before            a line of JSON about this machine
    report.py write [RAW.jsonl] --out FILE.md  the report; without a file, that nothing has run

Reads the lines of both sides and judges every aim. An aim nothing was measured for stays in
the table, with the reason.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys

SMI = {
    "gpu": "name", "driver": "driver_version", "memory": "memory.total", "compute_capability": "compute_cap",
    "clock_sm": "clocks.sm", "clock_memory": "clocks.mem", "clock_sm_max": "clocks.max.sm",
    "clock_memory_max": "clocks.max.mem", "power": "power.draw", "power_limit": "power.limit",
    "temperature": "temperature.gpu", "state": "pstate",
}  # fmt: skip
SPLIT = ["matmul", "dequantise", "attention", "optimizer", "elementwise", "other"]
COMMANDS = "make cuda && make test-cuda && make bench-cuda"

NOT_RUN = f"""# On a GPU, beside the Python stack

**Nothing here has run on a device yet.** There was no GPU at hand: no number of speed or of memory has been measured, and no result of a kernel on a GPU has been compared with anything. Every aim below is open.

What was checked instead, without a GPU:

- **Kernels**: `make test` compiles the source of each kernel for the CPU, runs it thread by thread and compares it with the CPU path. That covers indexing and arithmetic; it does not cover races, the matrix units, the rounding of the device's fast functions, or speed.
- **The CUDA code compiles**: `make lint-cuda` runs clippy over it with a stand-in for nvcc, in CI too; `make cuda` builds it with nvcc 13.0.
- **It links and starts**: `make cuda` ends by starting the program against CUDA 13's libraries and a stand-in for the driver's, so every symbol it needs is there.
- **Both sides of the comparison**: ours runs through every work in a tiny shape on the kernels compiled for the CPU (`tests/device_bench.rs`), the Python side with tiny shapes on a CPU (`reference.py --shape tiny --device cpu`), and this report's arithmetic is tested on lines made by hand.

What remains, on a machine with a GPU and its driver (580 or later):

```sh
{COMMANDS}
```

Each of the last two takes less than ten minutes and needs only the program and python3 beside it, so the first may be done elsewhere and `target/cuda/cotalign-cuda` carried over. `make bench-cuda` writes this file anew.
"""


# --- the machine -----------------------------------------------------------------------


def output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def commit(given: str | None) -> str:
    found = given or os.environ.get("COTALIGN_COMMIT")
    if not found and (found := output("git", "rev-parse", "--short=12", "HEAD")):
        # The report itself is being rewritten: it does not count as a change.
        if output("git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!results/bench_cuda.*"):
            found += ", with changes"
    return found or "unknown"


def machine(args):
    line = {
        "side": "machine",
        "when": args.when,
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(args.commit),
        "system": platform.platform(),
        "cores": os.cpu_count(),
    }
    found = output("nvidia-smi", f"--query-gpu={','.join(SMI.values())}", "--format=csv,noheader")
    for key, value in zip(SMI, (found or "").split("\n")[0].split(",")):
        line[key] = value.strip()
    print(json.dumps(line))


# --- reading ---------------------------------------------------------------------------


def read(path: str | None) -> list[dict]:
    lines = []
    if path:
        with open(path) as file:
            for number, text in enumerate(file, 1):
                try:
                    line = json.loads(text)
                    if not isinstance(line, dict):
                        raise ValueError("not an object")
                    lines.append(line)
                except ValueError as error:  # a side that was stopped may have cut its last line
                    lines.append({"side": "report", "work": "?", "error": f"line {number} is not JSON: {error}"})
    return lines


class Lines:
    def __init__(self, lines: list[dict]):
        self.all = lines
        self.good = [line for line in lines if "error" not in line]

    def of(self, side: str, work: str, **wanted) -> list[dict]:
        return [
            line
            for line in self.good
            if line.get("side") == side
            and line.get("work") == work
            and all(line.get(key) == value for key, value in wanted.items())
        ]

    def fastest(self, side: str, work: str, **wanted) -> dict | None:
        found = [line for line in self.of(side, work, **wanted) if line.get("tokens_per_s")]
        return max(found, key=lambda line: line["tokens_per_s"], default=None)

    def reason(self, side: str, work: str, **wanted) -> str:
        """Why there is no measurement."""
        for line in self.all:
            if "error" in line and line.get("side") == side and line.get("work") in (work, "all"):
                if all(line.get(key, value) == value for key, value in wanted.items()):
                    return line["error"].split("\n")[0][:80]
        return "not run"

    def largest(self, *keys: str) -> float | None:
        found = [line[key] for line in self.good for key in keys if line.get(key)]
        return max(found, default=None)


# --- judging ---------------------------------------------------------------------------


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def gigabytes(value: float | None) -> str:
    return "" if value is None else f"{value / 1e9:.2f} GB"


def how(line: dict) -> str:
    words = [f"batch {line['batch']}"] if "batch" in line else []
    if line.get("variant"):
        words.append(line["variant"])
    if line.get("spread") is not None:
        words.append(f"spread {100 * line['spread']:.0f} %")
    return ", ".join(words)


def verdict(met: bool | None) -> str:
    return {True: "met", False: "**missed**", None: "not measured"}[met]


def row(work, ours, theirs, ratio, aim, met):
    return [work, ours, theirs, ratio, aim, verdict(met)]


def speed(lines: Lines, title: str, aim: float, work: str, **wanted):
    """Fastest against fastest, each at its own best batch size and variant."""
    ours, theirs = (lines.fastest(side, work, **wanted) for side in ("cotalign", "python"))
    cells = [
        f"{number(line['tokens_per_s'])} tokens/s ({how(line)})" if line else f"– ({lines.reason(side, work, **wanted)})"
        for side, line in (("cotalign", ours), ("python", theirs))
    ]
    if theirs and work in ("sft", "dpo") and not lines.of("python", work, variant="compiled", **wanted):
        cells[1] += f"; compiled not measured ({lines.reason('python', work, variant='compiled', **wanted)})"
    ratio = ours["tokens_per_s"] / theirs["tokens_per_s"] if ours and theirs else None
    return row(
        title, *cells, f"{ratio:.2f}×" if ratio else "–", f"≥ {aim:g}×", ratio >= aim if ratio else None
    )


def memory_of(lines: Lines, side: str, key: str, **wanted) -> dict[int, float]:
    """Least peak of any variant, for each batch size."""
    found: dict[int, float] = {}
    for line in lines.of(side, "sft", **wanted):
        if line.get(key):
            found[line["batch"]] = min(line[key], found.get(line["batch"], line[key]))
    return found


def memory(lines: Lines, title: str, aim: float, **wanted):
    """At every batch size that both ran; the worst of them is judged."""
    for key, name in (("peak_bytes", "live"), ("device_bytes", "on the card")):
        ours, theirs = (memory_of(lines, side, key, **wanted) for side in ("cotalign", "python"))
        both = sorted(set(ours) & set(theirs))
        if both:
            worst = max(both, key=lambda batch: ours[batch] / theirs[batch])
            ratio = ours[worst] / theirs[worst]
            each = ", ".join(f"{batch}: {ours[batch] / theirs[batch]:.2f}×" for batch in both)
            return row(
                title, f"{gigabytes(ours[worst])} {name} (batch {worst})", gigabytes(theirs[worst]),
                f"{ratio:.2f}× (by batch: {each})", f"≤ {aim:g}×", ratio <= aim,
            )  # fmt: skip
    cells = []
    for side in ("cotalign", "python"):
        alone = memory_of(lines, side, "peak_bytes", **wanted)
        text = ", ".join(f"{gigabytes(alone[batch])} live (batch {batch})" for batch in sorted(alone))
        cells.append(text or f"– ({lines.reason(side, 'sft', **wanted)})")
    return row(title, *cells, "–", f"≤ {aim:g}×", None)


def batch_1(lines: Lines):
    title, aim = "… 7B, memory at batch 1", 6e9
    shown, judged = [], []
    for side in ("cotalign", "python"):
        device = memory_of(lines, side, "device_bytes", shape="7b").get(1)
        live = memory_of(lines, side, "peak_bytes", shape="7b").get(1)
        judged.append(device or live)
        parts = [f"{gigabytes(device)} on the card"] * bool(device) + [f"{gigabytes(live)} live"] * bool(live)
        shown.append(", ".join(parts) or f"– ({lines.reason(side, 'sft', shape='7b')})")
    ratio = f"{judged[0] / judged[1]:.2f}×" if all(judged) else "–"
    return row(title, *shown, ratio, "≤ 6 GB", judged[0] <= aim if judged[0] else None)


def limit_of(lines: Lines) -> float | None:
    """The most that anything in this run read or copied, on either side."""
    own = [line["bandwidth"].get("limit_bytes_per_s") or 0 for line in lines.good if line.get("bandwidth")]
    return max([*own, lines.largest("copy_bytes_per_s", "read_bytes_per_s") or 0]) or None


def decode(lines: Lines, batch: int):
    limit = limit_of(lines)
    cells, shares = [], []
    for side in ("cotalign", "python"):
        found = [line for line in lines.of(side, "decode", batch=batch) if line.get("shape") == "7b"]
        line = max(found, key=lambda line: line.get("tokens_per_s") or 0, default=None)
        rate = (line or {}).get("bandwidth", {}).get("bytes_per_s")
        shares.append(rate / limit if rate and limit else None)
        share = f", {100 * shares[-1]:.0f} % of the limit" if shares[-1] else ""
        cells.append(
            f"{number(line['tokens_per_s'])} tokens/s{share}"
            if line
            else f"– ({lines.reason(side, 'decode', batch=batch)})"
        )
    ratio = f"{shares[0] / shares[1]:.2f}×" if all(shares) else "–"
    title = f"decode 7B bf16, batch {batch}, of the memory's bandwidth"
    if limit:
        title += f" ({limit / 1e12:.2f} TB/s)"
    return row(title, *cells, ratio, "≥ 60 %", shares[0] >= 0.6 if shares[0] else None)


def peak_of(lines: Lines) -> float | None:
    return lines.largest("peak_tflops", "tflops")


def utilisation(lines: Lines, line: dict) -> float | None:
    peak = peak_of(lines)
    if line.get("model_flops") and line.get("ms_per_step") and peak:
        return line["model_flops"] / (line["ms_per_step"] / 1e3) / (peak * 1e12)
    return line.get("mfu")


def mfu(lines: Lines, shape: str):
    peak = peak_of(lines)
    title = f"step time, {shape}: model FLOP utilisation"
    if peak:
        title += f" (peak {number(peak)} TFLOP/s)"
    found = [(utilisation(lines, line), line) for line in lines.of("cotalign", "steps", shape=shape)]
    found = [pair for pair in found if pair[0]]
    if not found:
        return row(title, f"– ({lines.reason('cotalign', 'steps', shape=shape)})", "", "–", "≥ 40 %", None)
    best, line = max(found, key=lambda pair: pair[0])
    return row(title, f"{100 * best:.0f} % ({how(line)})", "", "–", "≥ 40 %", best >= 0.4)


def rows(lines: Lines) -> list[list[str]]:
    return [
        speed(lines, "QLoRA SFT 7B, length 512, answer-only labels", 1.5, "sft", shape="7b"),
        speed(lines, "… 13B", 1.5, "sft", shape="13b"),
        memory(lines, "… 7B, peak memory at the same batch", 0.8, shape="7b"),
        memory(lines, "… 13B, peak memory at the same batch", 0.8, shape="13b"),
        batch_1(lines),
        speed(lines, "DPO step 7B, precomputed reference", 1.5, "dpo", shape="7b"),
        speed(lines, "annotation 7B bf16, 1,000 prompts, ≤ 256 new tokens", 5, "annotate", shape="7b"),
        decode(lines, 1),
        decode(lines, 64),
        mfu(lines, "7b"),
        mfu(lines, "13b"),
    ]


# --- writing ---------------------------------------------------------------------------


def table(head: list[str], body: list[list[str]], right: int | None = None) -> str:
    """`right`: from which column on cells are numbers."""
    clean = lambda cell: str(cell).replace("|", "\\|").replace("\n", " ")  # noqa: E731
    marks = [":--" if right is None or i < right else "--:" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(map(clean, cells))} |" for cells in [head, marks, *body])


def split_table(lines: Lines) -> str:
    body = []
    for line in lines.of("cotalign", "steps"):
        split, whole = line.get("split", {}), line.get("ms_per_step")
        cells = [f"{line.get('shape', '')}, {how(line)}"]
        for key in SPLIT:
            share = f" ({100 * split[key] / whole:.0f} %)" if key in split and whole else ""
            cells.append(f"{split[key]:.2f}{share}" if key in split else "")
        cells.append(f"{whole:.2f}" if whole else "")
        if whole and abs(sum(split.values()) - whole) > 0.05 * whole:
            cells[-1] += f" (parts add up to {sum(split.values()):.2f})"
        body.append(cells)
    return table(["step, ms", *SPLIT, "whole"], body, 1) if body else "No split was measured."


def raw_table(lines: Lines) -> str:
    body = []
    for line in lines.all:
        if line.get("side") == "machine":
            continue
        extra = [line["error"]] if "error" in line else []
        for key, unit, scale in (
            ("copy_bytes_per_s", "copy {} TB/s", 1e12), ("read_bytes_per_s", "read {} TB/s", 1e12),
            ("tflops", "{} TFLOP/s", 1), ("peak_tflops", "peak {} TFLOP/s", 1), ("pairs_per_s", "{} pairs/s", 1),
            ("seconds", "{} s for all prompts", 1),
        ):  # fmt: skip
            if line.get(key):
                extra.append(unit.format(number(line[key] / scale)))
        for key, value in (line.get("bandwidth") or {}).items():
            if key != "share":
                extra.append(f"{'limit' if 'limit' in key else 'moved'} {number(value / 1e12)} TB/s")
        for key, value in (line.get("library") or {}).items():
            extra.append(f"{key}: {value}")
        if line.get("notes"):
            extra.append(str(line["notes"]))
        body.append(
            [
                line.get("side", ""), line.get("work", ""), line.get("shape", ""), line.get("variant", ""),
                line.get("batch", ""), number(line["tokens_per_s"]) if line.get("tokens_per_s") else "",
                f"{line['ms_per_step']:.2f}" if line.get("ms_per_step") else "",
                f"{100 * line['spread']:.1f} %" if line.get("spread") is not None else "",
                line.get("repeats", ""), gigabytes(line.get("peak_bytes")), gigabytes(line.get("device_bytes")),
                "; ".join(extra),
            ]
        )  # fmt: skip
    head = ["side", "work", "shape", "variant", "batch", "tokens/s", "ms a step", "spread", "repeats"]
    return table([*head, "peak live", "on the card", "notes"], body)


def about(lines: Lines, given: str | None) -> str:
    machines = [line for line in lines.all if line.get("side") == "machine"]
    first = machines[0] if machines else {}
    say = []
    if first.get("gpu"):
        say.append(
            f"- **Machine**: {first['gpu']}, {first.get('memory', '?')}, driver {first.get('driver', '?')}; "
            f"{first.get('cores', '?')} cores, {first.get('system', '?')}."
        )
    else:
        say.append("- **Machine**: nvidia-smi told nothing.")
    for line in machines:
        if line.get("clock_sm"):
            say.append(
                f"- **Clocks {line.get('when', '')}** ({line.get('time', '')}): SM {line['clock_sm']} of at most "
                f"{line.get('clock_sm_max', '?')}, memory {line.get('clock_memory', '?')} of {line.get('clock_memory_max', '?')}; "
                f"{line.get('power', '?')} of {line.get('power_limit', '?')}, {line.get('temperature', '?')} °C, {line.get('state', '?')}."
            )
    say.append(f"- **Commit**: {given or first.get('commit', 'unknown')}.")
    for side in ("cotalign", "python"):
        found = {json.dumps(line["versions"], sort_keys=True) for line in lines.good if line.get("side") == side and line.get("versions")}
        for text in sorted(found):
            versions = json.loads(text)
            say.append(f"- **Versions, {side}**: {', '.join(f'{k} {v}' for k, v in versions.items())}.")
    used = {json.dumps(line["library"], sort_keys=True) for line in lines.good if line.get("side") == "python" and line.get("library")}
    for text in sorted(used):
        say.append("- **Python side**: " + ", ".join(f"{k} by {v}" for k, v in json.loads(text).items()) + ".")
    return "\n".join(say)


HEAD = ["work", "ours", "theirs", "ratio", "aim", ""]


def report(lines: list[dict], given: str | None = None) -> str:
    found = Lines(lines)
    judged = rows(found)
    measured = [line for line in found.good if line.get("side") in ("cotalign", "python")]
    if not measured:
        failures = "".join(
            f"- {line.get('side')}, {line.get('work')}: {line['error']}\n" for line in found.all if "error" in line
        )
        text = NOT_RUN + "\n## Aims\n\n" + table(HEAD, judged) + "\n"
        return text + (f"\nThe last attempt measured nothing:\n\n{failures}" if failures else "")
    counts = [sum(cells[-1] == verdict(met) for cells in judged) for met in (True, False, None)]
    failed = [line for line in found.all if "error" in line]
    parts = [
        "# On a GPU, beside the Python stack",
        "Written by `make bench-cuda`: the same work on both sides, in one run, on one machine. "
        "Weights are random, in the exact shapes of Llama-2-7B and -13B; speed and memory do not depend on the values. "
        "Medians over repeats, warm-up and compilation left out; spread is (largest − smallest) / median. "
        "Each side is taken at its own best batch size, theirs at the better of eager and compiled; memory is compared at "
        "equal batch sizes with the leaner of their variants. GB are 10⁹ bytes; “live” is the peak of allocated tensors, "
        "“on the card” what the card reports as taken. "
        "The limits of bandwidth and of arithmetic are the highest that either side reached in this run.",
        f"**{counts[0]} aims met, {counts[1]} missed, {counts[2]} not measured.**",
        table(HEAD, judged),
        "## Where a step's time goes",
        "Each class from events before and after its kernels; elementwise is norms, activations, dropout and losses; "
        "other is what no class holds: candle's own element-wise kernels, copies, launches and waiting.",
        split_table(found),
        "## The run",
        about(found, given),
    ]
    if failed:
        parts += [
            "## What failed",
            "\n".join(
                "- " + ", ".join(str(line[k]) for k in ("side", "work", "shape", "variant", "batch") if k in line)
                + f": {line['error']}"
                for line in failed
            ),
        ]  # fmt: skip
    parts += ["## Raw measurements", "As JSON in `results/bench_cuda.jsonl`.", raw_table(found)]
    return "\n\n".join(parts) + "\n"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = arguments.add_subparsers(required=True)
    sub = commands.add_parser("machine")
    sub.add_argument("--when", default="before")
    sub.add_argument("--commit")
    sub.set_defaults(run=machine)
    sub = commands.add_parser("write")
    sub.add_argument("raw", nargs="?")
    sub.add_argument("--out", default="results/bench_cuda.md")
    sub.add_argument("--commit")
    sub.set_defaults(run=None)
    args = arguments.parse_args()
    if args.run:
        return args.run(args)
    text = report(read(args.raw), args.commit)
    with open(args.out, "w") as file:
        file.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
