"""The Python stack's side of `make bench-cuda`: transformers, with PEFT, TRL and bitsandbytes.

    python3 reference.py --lengths LENGTHS.json --out OUT.jsonl [--budget-s 330]
    python3 reference.py --shape tiny --device cpu --lengths ... --out ...   # does it run?

Weights are random, in the exact shapes of Llama-2-7B and -13B, and made on the device: speed
and memory do not depend on the values. Where bitsandbytes is missing its place is taken by NF4
in plain torch, where PEFT is missing by a LoRA layer of our own, where TRL is missing by a DPO
step with its formula; each line says which it was. Every measurement is a line of JSON, written
the moment it is there. A part that fails or runs out of time is a line with `error`, and the
next part goes on: each runs in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.metadata
import importlib.util
import json
import os
import signal
import statistics
import sys
import tempfile
import time
import traceback

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Lets the parent ask whether there is a GPU without starting CUDA: parts are forked.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

SHAPES = {  # hidden, intermediate, layers, heads, vocabulary
    "7b": (4096, 11008, 32, 32, 32000),
    "13b": (5120, 13824, 40, 40, 32000),
    "tiny": (64, 192, 2, 4, 512),
}
# The paper scale's setting (data/scales/paper.toml).
LORA = {"r": 8, "alpha": 16, "dropout": 0.1}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CLIP = {"sft": 0.3, "dpo": 1.0}
BETA = 0.1
# bitsandbytes' NF4 values.
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
]  # fmt: skip

# Share of the budget of each part, in the order they run.
PARTS = {"bandwidth": 8, "matmul": 6, "sft_7b": 75, "dpo": 60, "sft_13b": 75, "annotate": 75, "decode": 30}

# Sizes of the real thing, and of the trial on a CPU.
REAL = {
    "length": 512, "answer": 128, "batches": [1, 8, 4, 16], "pairs": [1, 4, 8], "slots": [64, 128, 16],
    "context": 512, "new": 64, "streams": [1, 64], "square": 8192, "buffer": 1 << 32, "repeats": 10,
}  # fmt: skip
TRIAL = {
    "length": 32, "answer": 8, "batches": [1, 2], "pairs": [1, 2], "slots": [4, 8],
    "context": 16, "new": 8, "streams": [1, 4], "square": 256, "buffer": 1 << 22, "repeats": 3,
}  # fmt: skip


WITHOUT = set()


def have(package: str) -> bool:
    return package not in WITHOUT and importlib.util.find_spec(package) is not None


def versions() -> dict:
    found = {"python": sys.version.split()[0]}
    for name in ("torch", "transformers", "peft", "trl", "bitsandbytes", "triton", "accelerate"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


class Part:
    """One part: its settings, its deadline and its lines."""

    def __init__(self, args, name: str, seconds: float):
        import torch

        self.torch, self.args, self.name = torch, args, name
        self.device = torch.device(args.device)
        self.cuda = self.device.type == "cuda"
        self.sizes = TRIAL if args.shape == "tiny" else REAL
        self.deadline = time.monotonic() + seconds
        self.versions = versions()
        torch.manual_seed(1)
        if self.cuda:
            torch.cuda.init()
        else:
            torch.set_num_threads(1)  # tiny work; threads would only wait for each other

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def line(self, work: str, **found):
        emit(self.args.out, {"side": "python", "work": work, **found, "versions": self.versions})

    def sync(self):
        if self.cuda:
            self.torch.cuda.synchronize()

    def clear(self):
        gc.collect()
        if self.cuda:
            self.torch.cuda.empty_cache()
            self.torch.cuda.reset_peak_memory_stats()

    def memory(self) -> dict:
        """Peak of live tensors, and what is taken from the card, as nvidia-smi would show it."""
        if not self.cuda:
            return {"peak_bytes": None, "device_bytes": None}
        free, total = self.torch.cuda.mem_get_info()
        return {"peak_bytes": self.torch.cuda.max_memory_allocated(), "device_bytes": total - free}

    def time(self, step, warmup: int = 2, repeats: int | None = None, seconds: float = 6.0) -> dict:
        """Median of a step in ms, by synchronised clocks; fewer repeats where a step takes long."""
        for _ in range(warmup):
            step()
        self.sync()
        taken, end = [], time.monotonic() + min(seconds, max(1.0, self.left()))
        for _ in range(repeats or self.sizes["repeats"]):
            start = time.perf_counter()
            step()
            self.sync()
            taken.append(1e3 * (time.perf_counter() - start))
            if time.monotonic() > end and len(taken) >= 3:
                break
        return spread(taken)

    @contextlib.contextmanager
    def guarded(self, work: str, **known):
        """What goes wrong inside becomes a line."""
        torch = self.torch
        try:
            yield
        except torch.OutOfMemoryError as error:
            self.line(work, **known, error="out of memory", notes=str(error).split(". ")[0])
        except Exception as error:
            traceback.print_exc()
            self.line(work, **known, error=f"{type(error).__name__}: {error}"[:300])


def spread(taken: list[float]) -> dict:
    """The median, and (largest - smallest) / median."""
    middle = statistics.median(taken)
    return {"ms_per_step": middle, "repeats": len(taken), "spread": (max(taken) - min(taken)) / middle}


def emit(path: str, line: dict):
    text = json.dumps(line)
    print(text, flush=True)
    with open(path, "a") as file:
        file.write(text + "\n")


# --- models ----------------------------------------------------------------------------


def config(shape: str):
    from transformers import LlamaConfig

    hidden, intermediate, layers, heads, vocab = SHAPES[shape]
    return LlamaConfig(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=4096,
        rms_norm_eps=1e-5, tie_word_embeddings=False, attn_implementation="sdpa",
    )  # fmt: skip


def parent(model, name: str):
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def empty(part: Part, shape: str):
    """The model without memory behind it, to be filled module by module."""
    torch = part.torch
    from transformers import LlamaForCausalLM

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            return LlamaForCausalLM(config(shape))
    finally:
        torch.set_default_dtype(before)


def fill(part: Part, model):
    """Random weights on the device for every module that has none yet."""
    torch = part.torch
    with part.device:
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    for name, module in list(model.named_modules()):
        for leaf, p in list(module.named_parameters(recurse=False)):
            if not p.is_meta:
                continue
            norm = leaf == "weight" and p.dim() == 1
            value = torch.empty(p.shape, dtype=torch.bfloat16, device=part.device)
            value.fill_(1.0) if norm else value.normal_(0, 0.02)
            setattr(module, leaf, torch.nn.Parameter(value, requires_grad=False))
    return model


def quantised(part: Part, shape: str):
    """Frozen NF4 base (double quantisation) with trainable float32 adapters, and what made it."""
    torch = part.torch
    model = empty(part, shape)
    made = {"nf4": "torch", "lora": "own"}
    four_bit = None
    if have("bitsandbytes"):
        try:
            import bitsandbytes as bnb

            def four_bit(linear):
                new = bnb.nn.Linear4bit(
                    linear.in_features, linear.out_features, bias=False, compute_dtype=torch.bfloat16,
                    compress_statistics=True, quant_type="nf4", device="meta",
                )  # fmt: skip
                w = torch.empty(linear.weight.shape, dtype=torch.bfloat16, device=part.device).normal_(0, 0.02)
                new.weight = bnb.nn.Params4bit(
                    w.cpu() if not part.cuda else w, requires_grad=False, compress_statistics=True,
                    quant_type="nf4", module=new,
                )  # fmt: skip
                new = new.to(part.device)
                if new.weight.dtype != torch.uint8:  # made on the device already: not quantised by moving
                    new.weight = new.weight._quantize(part.device)
                return new

            trial = four_bit(torch.nn.Linear(128, 128, bias=False))
            trial(torch.zeros(1, 128, dtype=torch.bfloat16, device=part.device))
            made["nf4"] = "bitsandbytes"
        except Exception as error:
            print(f"bitsandbytes does not work here: {error}", file=sys.stderr)
            four_bit = None
            made["nf4_reason"] = str(error)[:200]
    if four_bit is None:
        nf4_linear = make_nf4_linear(torch)
        four_bit = lambda linear: nf4_linear(linear.in_features, linear.out_features, part.device)  # noqa: E731
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] in TARGETS:
            owner, leaf = parent(model, name)
            setattr(owner, leaf, four_bit(module))
    fill(part, model)
    model.config.use_cache = False
    if have("peft"):
        from peft import LoraConfig, get_peft_model

        model.is_loaded_in_4bit = made["nf4"] == "bitsandbytes"
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model = get_peft_model(
            model,
            LoraConfig(
                r=LORA["r"], lora_alpha=LORA["alpha"], lora_dropout=LORA["dropout"],
                target_modules=TARGETS, bias="none", task_type="CAUSAL_LM",
            ),
        )  # fmt: skip
        made["lora"] = "peft"
    else:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        lora_linear = make_lora_linear(torch)
        for name, module in list(model.named_modules()):
            if name.rpartition(".")[2] in TARGETS:
                owner, leaf = parent(model, name)
                setattr(owner, leaf, lora_linear(module, part.device))
    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained:
        p.data = p.data.float()
    model.train()
    return model, trained, made


def make_nf4_linear(torch):
    """NF4 with double quantisation in plain torch: 4-bit codes in blocks of 64, whose scales are
    8-bit codes in blocks of 256. The backward pass dequantises again, so that nothing of the
    weight's full size is kept. A Linear by class, so that PEFT takes it for one."""

    def dequantise(packed, codes, scales, offset, pairs, dynamic, rows, columns):
        # 256 pairs of values: one look-up for the two weights of a byte.
        absmax = dynamic[codes.int()].view(-1, 256) * scales[:, None] + offset
        values = pairs[packed.int()].view(-1, 64)
        return (values * absmax.view(-1)[: values.shape[0], None].to(values.dtype)).view(rows, columns)

    class Multiply(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, rows, columns, *weight):
            ctx.save_for_backward(*weight)
            ctx.shape = rows, columns
            return torch.nn.functional.linear(x, dequantise(*weight, rows, columns))

        @staticmethod
        def backward(ctx, gradient):
            saved = ctx.saved_tensors  # once: recomputation hands them out a single time
            return gradient @ dequantise(*saved, *ctx.shape), None, None, *(None for _ in saved)

    class NF4Linear(torch.nn.Linear):
        def __init__(self, columns: int, rows: int, device):
            super().__init__(columns, rows, bias=False, device="meta")
            n = rows * columns
            blocks = -(-n // 64)
            groups = -(-blocks // 256)
            random = lambda count: torch.randint(0, 256, (count,), dtype=torch.uint8, device=device)  # noqa: E731
            self.weight = torch.nn.Parameter(random(n // 2), requires_grad=False)
            self.register_buffer("codes", random(groups * 256))
            self.register_buffer("scales", torch.full((groups,), 0.01, device=device))
            self.register_buffer("offset", torch.full((), 0.05, device=device))
            values = torch.tensor(NF4, device=device, dtype=torch.bfloat16)
            byte = torch.arange(256, device=device)
            self.register_buffer("pairs", torch.stack([values[byte // 16], values[byte % 16]], 1))
            self.register_buffer("dynamic", torch.linspace(-1, 1, 256, device=device))

        def forward(self, x):
            return Multiply.apply(
                x.to(torch.bfloat16), self.out_features, self.in_features, self.weight, self.codes,
                self.scales, self.offset, self.pairs, self.dynamic,
            )  # fmt: skip

    return NF4Linear


def make_lora_linear(torch):
    class LoraLinear(torch.nn.Module):
        def __init__(self, base, device):
            super().__init__()
            self.base = base
            self.a = torch.nn.Parameter(torch.randn(LORA["r"], base.in_features, device=device) * 0.01)
            self.b = torch.nn.Parameter(torch.zeros(base.out_features, LORA["r"], device=device))
            self.dropout = torch.nn.Dropout(LORA["dropout"])

        def forward(self, x):
            linear = torch.nn.functional.linear
            low = linear(self.dropout(x), self.a)
            return self.base(x) + linear(low, self.b) * (LORA["alpha"] / LORA["r"])

    return LoraLinear


def compile_layers(part: Part, model):
    """Every decoder layer compiled, inside the recomputation; one compilation serves all layers."""
    torch = part.torch
    torch._dynamo.config.cache_size_limit = 64
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    for layer in base.model.layers:
        layer.compile(dynamic=False, backend=part.args.backend)
    with contextlib.suppress(Exception):
        base.loss_function = torch.compile(base.loss_function, dynamic=False, backend=part.args.backend)


def optimizer(part: Part, trained, rate: float):
    return part.torch.optim.AdamW(trained, lr=rate, weight_decay=1e-3, fused=part.cuda)


def stepper(part: Part, trained, loss, rate: float, clip: float):
    torch = part.torch
    adamw = optimizer(part, trained, rate)

    def step():
        with torch.autocast(part.device.type, dtype=torch.bfloat16):
            value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, clip)
        adamw.step()
        adamw.zero_grad(set_to_none=True)

    return step


def variants(part: Part, model, batches, measure, **known):
    """Every batch size without compilation, then the fastest and batch 1 compiled."""
    speed = {}
    for batch in batches:
        if part.left() < 8:
            part.line(part.work, variant="eager", batch=batch, error="no time left", **known)
            continue
        with part.guarded(part.work, variant="eager", batch=batch, **known):
            speed[batch] = measure(batch, "eager")
        part.clear()
    if not speed:
        return
    best = max(speed, key=speed.get)
    compile_layers(part, model)
    for batch in dict.fromkeys([best, 1]):
        if part.left() < 20 and part.cuda:
            part.line(part.work, variant="compiled", batch=batch, error="no time left", **known)
            continue
        with part.guarded(part.work, variant="compiled", batch=batch, **known):
            measure(batch, "compiled")
        part.clear()


# --- parts -----------------------------------------------------------------------------


def sft(part: Part, shape: str):
    torch, sizes = part.torch, part.sizes
    part.work = "sft"
    model, trained, made = quantised(part, shape)
    vocab, length = model.config.vocab_size, sizes["length"]

    def measure(batch: int, variant: str) -> float:
        ids = torch.randint(3, vocab, (batch, length), device=part.device)
        labels = ids.clone()
        labels[:, : length - sizes["answer"]] = -100
        part.clear()
        step = stepper(part, trained, lambda: model(input_ids=ids, labels=labels).loss, 2e-5, CLIP["sft"])
        found = part.time(step)
        rate = 1e3 * batch * length / found["ms_per_step"]
        part.line(
            "sft", shape=shape, variant=variant, batch=batch, length=length, answer=sizes["answer"],
            tokens_per_s=rate, **found, **part.memory(), library=made,
        )  # fmt: skip
        return rate

    variants(part, model, sizes["batches"], measure, shape=shape, library=made)


def dpo(part: Part, shape: str):
    torch, sizes = part.torch, part.sizes
    part.work = "dpo"
    length, answer = sizes["length"], sizes["answer"]
    if have("trl") and have("peft") and have("datasets"):
        with part.guarded("dpo", shape=shape, variant="trl"):
            dpo_trl(part, shape)
        part.clear()
    model, trained, made = quantised(part, shape)
    made["dpo"] = "own step, TRL's formula"

    def measure(batch: int, variant: str) -> float:
        # Chosen and rejected of a pair share their prompt; log-probabilities of the answers alone.
        prompts = torch.randint(3, model.config.vocab_size, (batch, length - answer), device=part.device)
        answers = torch.randint(3, model.config.vocab_size, (2 * batch, answer), device=part.device)
        ids = torch.cat([prompts.repeat(2, 1), answers], 1)
        reference = torch.full((2 * batch,), -10.0 * answer, device=part.device)

        def loss():
            logits = model(input_ids=ids, logits_to_keep=answer + 1).logits[:, :-1]
            targets = ids[:, -answer:]
            picked = torch.gather(logits, 2, targets[..., None]).squeeze(-1).float()
            normaliser = torch.stack([torch.logsumexp(row.float(), -1) for row in logits])
            chosen, rejected = ((picked - normaliser).sum(1) - reference).chunk(2)
            return -torch.nn.functional.logsigmoid(BETA * (chosen - rejected)).mean()

        part.clear()
        found = part.time(stepper(part, trained, loss, 1e-6, CLIP["dpo"]))
        rate = 1e3 * 2 * batch * length / found["ms_per_step"]
        part.line(
            "dpo", shape=shape, variant=variant, batch=batch, length=length, answer=answer,
            tokens_per_s=rate, pairs_per_s=1e3 * batch / found["ms_per_step"], **found, **part.memory(),
            library=made,
        )  # fmt: skip
        return rate

    variants(part, model, sizes["pairs"], measure, shape=shape, library=made)


def dpo_trl(part: Part, shape: str):
    """TRL's own trainer, reference log-probabilities computed before; steps as its callback sees them."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    import trl

    torch, sizes = part.torch, part.sizes
    batch = sizes["pairs"][-2]
    warmup, repeats = 2, sizes["repeats"]
    model, trained, made = quantised(part, shape)
    made["dpo"] = "trl"
    vocab = model.config.vocab_size
    inner = Tokenizer(
        models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, vocab)}, "<unk>")
    )
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    g = torch.Generator().manual_seed(1)
    words = lambda n: " ".join(f"w{i}" for i in torch.randint(3, vocab, (n,), generator=g).tolist())  # noqa: E731
    # The trainer puts an EOS behind every answer.
    rows = [
        {
            "prompt": words(sizes["length"] - sizes["answer"]),
            "chosen": " " + words(sizes["answer"] - 1),
            "rejected": " " + words(sizes["answer"] - 1),
        }
        for _ in range(batch * (warmup + repeats))
    ]
    taken, started = [], [0.0]

    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            part.sync()
            started[0] = time.perf_counter()

        def on_step_end(self, args, state, control, **__):
            part.sync()
            taken.append(1e3 * (time.perf_counter() - started[0]))
            control.should_training_stop = part.left() < 25 and len(taken) > warmup + 2

    with tempfile.TemporaryDirectory() as folder:
        wanted = {
            "output_dir": folder, "use_cpu": not part.cuda, "bf16": True, "seed": 1, "report_to": "none",
            "beta": BETA, "max_steps": warmup + repeats, "per_device_train_batch_size": batch,
            "learning_rate": 1e-6, "lr_scheduler_type": "constant", "weight_decay": 1e-4,
            "optim": "adamw_torch_fused" if part.cuda else "adamw_torch", "max_grad_norm": CLIP["dpo"],
            "gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False},
            "precompute_ref_log_probs": True, "precompute_ref_batch_size": batch, "max_length": None,
            "disable_dropout": False, "logging_steps": 10**6, "save_strategy": "no", "disable_tqdm": True,
        }  # fmt: skip
        known = {f for f in trl.DPOConfig.__dataclass_fields__}
        trainer = trl.DPOTrainer(
            model=model, processing_class=tokenizer, train_dataset=Dataset.from_list(rows),
            args=trl.DPOConfig(**{k: v for k, v in wanted.items() if k in known}), callbacks=[Clock()],
        )  # fmt: skip
        for p in trained:  # rounded to bfloat16 by some versions
            p.data = p.data.float()
        part.clear()
        trainer.train()
    found = spread(taken[warmup:])
    part.line(
        "dpo", shape=shape, variant="trl", batch=batch, length=sizes["length"], answer=sizes["answer"],
        tokens_per_s=1e3 * 2 * batch * sizes["length"] / found["ms_per_step"],
        pairs_per_s=1e3 * batch / found["ms_per_step"], **found, **part.memory(), library=made,
    )  # fmt: skip


def plain(part: Part, shape: str):
    model = fill(part, empty(part, shape)).eval()
    generation = model.generation_config
    generation.eos_token_id, generation.pad_token_id, generation.bos_token_id = None, 0, 1
    return model


def generate(part: Part, model, prompts: list[int], new: int, **more):
    """One static batch of random prompts of these lengths, padded on the left."""
    torch = part.torch
    longest = max(prompts)
    ids = torch.randint(3, model.config.vocab_size, (len(prompts), longest), device=part.device)
    mask = torch.ones_like(ids)
    for row, length in enumerate(prompts):
        mask[row, : longest - length] = 0
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False, **more
        )
    assert out.shape[1] == longest + new, f"{out.shape[1] - longest} new tokens instead of {new}"


def annotate(part: Part, shape: str):
    """Static batches of prompts sorted by length; a batch runs to its longest answer. Batches are
    taken spread over the sorted list until the time is up, so the measured part stands for all."""
    with open(part.args.lengths) as file:
        lengths = json.load(file)
    rows = sorted(zip(lengths["prompt_tokens"], lengths["new_tokens"]))
    model = plain(part, shape)
    for left, size in zip(range(len(part.sizes["slots"]), 0, -1), part.sizes["slots"]):
        with part.guarded("annotate", shape=shape, variant="eager", batch=size):
            chunks = [rows[i : i + size] for i in range(0, len(rows), size)]
            order = sorted(range(len(chunks)), key=lambda i: (i * 0.6180339887 + 0.5) % 1)
            part.clear()
            generate(part, model, [rows[len(rows) // 2][0]] * size, 4)
            end = time.monotonic() + max(1.0, part.left() - 5) / left
            useful = measured = run = 0
            taken = []
            for i in order:
                start = time.perf_counter()
                generate(part, model, [p for p, _ in chunks[i]], max(n for _, n in chunks[i]))
                part.sync()
                taken.append(time.perf_counter() - start)
                useful += sum(n for _, n in chunks[i])
                run += len(chunks[i]) * max(n for _, n in chunks[i])
                measured += len(chunks[i])
                if time.monotonic() > end:
                    break
            part.line(
                "annotate", shape=shape, variant="eager", batch=size, tokens_per_s=useful / sum(taken),
                seconds=sum(taken) * len(rows) / measured, prompts=len(rows), prompts_measured=measured,
                padding=1 - useful / run, repeats=len(taken), **part.memory(),
                notes=f"static batches sorted by prompt length; {measured} of {len(rows)} prompts measured"
                + ("" if measured == len(rows) else ", spread over all lengths, seconds scaled to all"),
            )  # fmt: skip


def decode(part: Part, shape: str):
    """Steady decoding: the time of many new tokens less that of few, so that reading the prompt
    is not in it. Bytes: the weights but for the table of embeddings, and the cache, once a step."""
    model = plain(part, shape)
    context, new = part.sizes["context"], part.sizes["new"]
    c = model.config
    read = sum(p.numel() for n, p in model.named_parameters() if "embed_tokens" not in n) * 2
    for batch in part.sizes["streams"]:
        with part.guarded("decode", shape=shape, variant="eager", batch=batch):
            part.clear()
            few = max(1, new // 8)
            run = lambda n: part.time(lambda: generate(part, model, [context] * batch, n), 1, 3, 6.0)  # noqa: E731, B023
            short, long = run(few), run(few + new)
            ms = (long["ms_per_step"] - short["ms_per_step"]) / new
            cache = batch * (context + few + new / 2) * 2 * c.num_hidden_layers * c.hidden_size * 2
            part.line(
                "decode", shape=shape, variant="eager", batch=batch, context=context, ms_per_step=ms,
                tokens_per_s=1e3 * batch / ms, repeats=long["repeats"], spread=long["spread"], **part.memory(),
                bandwidth={"bytes_per_s": 1e3 * (read + cache) / ms},
            )  # fmt: skip


def bandwidth(part: Part, _):
    """The card's memory: a copy from device to device, read plus written, and a pure read."""
    torch = part.torch
    count = part.sizes["buffer"] // 4
    a = torch.randn(count, device=part.device)
    b = torch.empty_like(a)
    copy = part.time(lambda: b.copy_(a), 3, 20, 2.0)
    read = part.time(lambda: a.sum(), 3, 20, 2.0)
    part.line(
        "bandwidth", copy_bytes_per_s=1e3 * 8 * count / copy["ms_per_step"],
        read_bytes_per_s=1e3 * 4 * count / read["ms_per_step"], repeats=copy["repeats"],
        spread=max(copy["spread"], read["spread"]),
        notes=f"buffer of {4 * count} bytes; copy counts bytes read and written; read is a sum",
    )  # fmt: skip


def matmul(part: Part, _):
    """The matrix units: bf16, square, on random values (on zeros it would be faster)."""
    torch = part.torch
    n = part.sizes["square"]
    a = torch.randn(n, n, device=part.device).to(torch.bfloat16)
    b = torch.randn(n, n, device=part.device).to(torch.bfloat16)
    found = part.time(lambda: a @ b, 5, 30, 3.0)
    part.line("matmul", size=n, **found, tflops=2 * n**3 / found["ms_per_step"] / 1e9)


# --- the run ---------------------------------------------------------------------------


def run(args, name: str, seconds: float):
    """One part, in a process of its own."""
    part = Part(args, name, seconds)
    if name.startswith("sft"):
        sft(part, args.shape or name.partition("_")[2])
    else:
        works = {"dpo": dpo, "annotate": annotate, "decode": decode, "bandwidth": bandwidth, "matmul": matmul}
        works[name](part, args.shape or "7b")


def failure(args, name: str, reason: str) -> dict:
    """Of a whole part, say sft_13b."""
    work, _, shape = name.partition("_")
    return {"side": "python", "work": work, "shape": args.shape or shape or "7b", "error": reason}


def guarded_run(args, name: str, seconds: float):
    try:
        run(args, name, seconds)
    except BaseException as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"[:300]
        emit(args.out, failure(args, name, reason))


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--lengths", required=True)
    arguments.add_argument("--out", required=True)
    arguments.add_argument("--budget-s", type=float, default=330)
    arguments.add_argument("--device", default="cuda")
    arguments.add_argument("--shape", choices=list(SHAPES), help="instead of 7b and 13b")
    arguments.add_argument("--parts", default=",".join(PARTS))
    arguments.add_argument("--without", default="", help="as if these were missing: peft,trl,bitsandbytes")
    arguments.add_argument("--backend", help="torch.compile's; aot_eager for a trial on a CPU")
    arguments.add_argument("--part-s", type=float, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    WITHOUT.update(args.without.split(","))
    args.backend = args.backend or ("inductor" if args.device != "cpu" else "aot_eager")
    if args.part_s:
        return guarded_run(args, args.parts, args.part_s)

    end = time.monotonic() + args.budget_s
    import torch
    import transformers  # noqa: F401  once, before the parts fork

    transformers.LlamaForCausalLM  # noqa: B018  imported when asked for
    transformers.logging.set_verbosity_error()
    compiled = tempfile.TemporaryDirectory()
    parts = [p for p in args.parts.split(",") if not (args.shape and p == "sft_13b")]
    for i, name in enumerate(parts):
        left = end - time.monotonic()
        # What a part leaves over goes to those behind it.
        seconds = (left - 2) * PARTS[name] / sum(PARTS[p] for p in parts[i:])
        seconds = max(seconds, min(5, left - 2))
        if seconds < 2:
            emit(args.out, failure(args, name, "no time left"))
            continue
        # A part that is stopped while it compiles leaves half a file behind.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(compiled.name, name)
        print(f"== {name}, at most {seconds:.0f} s", flush=True)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.setsid()  # with the compiler's workers, to be ended together
            try:
                if args.device != "cpu" and torch.cuda._is_in_bad_fork():  # an import has started CUDA
                    again = [sys.executable, "-u", *sys.argv, "--parts", name, "--part-s", str(seconds)]
                    os.execv(sys.executable, again)
                guarded_run(args, name, seconds)
            finally:
                sys.stdout.flush()
                os._exit(0)
        stop = time.monotonic() + seconds + 1
        status = None
        while status is None and time.monotonic() < stop:
            done, code = os.waitpid(child, os.WNOHANG)
            status = code if done else None
            time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if status is None:
            os.waitpid(child, 0)
            status = f"stopped at its limit of {seconds:.0f} s"
        elif status:
            status = f"ended with status {status}"
        if status:
            emit(args.out, failure(args, name, status))
    compiled.cleanup()
    with open(args.out) as file:
        sys.exit(0 if any("error" not in json.loads(line) for line in file) else "nothing was measured")


if __name__ == "__main__":
    main()
