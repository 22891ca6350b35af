"""The field's words that a goal may use, and what each stands for."""

METRICS = {
    "val_bpb": (
        *("validation bits per byte", "bits per byte", "bits/byte", "bpb", "validation bpb"),
        *("validation loss", "val loss", "loss", "cross entropy", "compression"),
    ),
    "accuracy": ("recall accuracy", "needle accuracy", "retrieval accuracy", "acc", "recall"),
    "params": (
        *("parameters", "parameter", "parameter count", "number of parameters", "param", "size"),
        *("model size", "parameter budget"),
    ),
    "peak_memory_mb": (
        *("peak memory", "memory", "memory use", "memory usage", "memory footprint", "ram", "vram"),
        "peak memory use",
    ),
    "train_tokens_per_s": (
        *("training throughput", "throughput", "training speed", "train speed", "training"),
        *("tokens per second", "tokens/s", "tokens/second", "training tokens per second"),
    ),
    "flops_per_token": (
        *("flops per token", "flops/token", "flops", "flop", "forward flops", "forward pass flops"),
        *("floating point operations", "floating point operations per token", "compute per token"),
    ),
    "prefill_ms": (
        *("prefill latency", "prefill time", "prefill", "prefilling", "prompt latency"),
        *("time to first token", "ttft"),
    ),
    "decode_ms": (
        *("decode latency", "decoding latency", "decode time", "decoding time", "decode"),
        *("decoding", "generation latency", "generation time", "latency", "latency per token"),
    ),
    "kv_bytes_per_token": (
        *("kv cache", "kv cache size", "kv memory", "kv", "cache memory", "cache size", "cache"),
        *("key value cache", "key value cache size", "kv cache memory", "cache bytes per token"),
    ),
    "quality": ("model quality",),
}
"""Each metric of the lab and how people call it; ``quality`` is whatever the task judges by."""

FRACTIONS_OF_ONE = frozenset({"accuracy"})
"""Metrics between 0 and 1, for which "90 %" is the value 0.9."""

KINDS = {
    "lower": (
        *("lower", "lowering", "reduce", "reducing", "cut", "cutting", "minimise", "minimize"),
        *("minimising", "minimizing", "decrease", "decreasing", "drop", "bring down", "trim"),
        *("get down", "slash", "lowest", "smallest", "as low as possible", "as small as possible"),
    ),
    "shrink": ("shrink", "shrinking", "compress", "compressing"),
    "raise": (
        *("raise", "raising", "increase", "increasing", "maximise", "maximize", "maximising"),
        *("maximizing", "boost", "boosting", "grow", "growing", "bring up", "higher", "highest"),
        "as high as possible",
    ),
    "improve": (
        *("improve", "improving", "beat", "beating", "optimise", "optimize", "outperform", "best"),
        *("optimising", "optimizing", "surpass", "improve on", "improve upon"),
    ),
    "speed": ("speed up", "speeding up", "accelerate", "accelerating", "as fast as possible"),
    "halve": ("halve", "halving"),
    "double": ("double", "doubling"),
    "get": (
        *("get", "getting", "make", "making", "bring", "bringing", "reach", "reaching", "find"),
        *("achieve", "achieving", "push", "take"),
    ),
    "more": ("more", "larger", "bigger", "greater", "additional", "extra"),
    "less": ("less", "fewer", "smaller"),
    "better": ("better",),
    "worse": (
        *("worse", "hurting", "harming", "losing", "drop in", "drop of"),
        *("sacrificing", "degrading", "worsening", "giving up", "lose", "loses", "hurt"),
    ),
    "faster": ("faster", "quicker", "as fast"),
    "slower": ("slower", "slowing down", "getting slower", "slowdown", "slow down"),
    "without": (
        "without",
        "without any",
        "do not",
        "don't",
        "no",
        "not",
        "never",
        "with no",
        "not any",
    ),
    "within": ("within",),
    "equal": (
        *("equal", "same", "constant", "unchanged", "fixed", "at equal", "at the same"),
        *("for the same", "with the same", "with equal", "at constant", "at fixed", "at unchanged"),
    ),
    "keep": (
        *("keep", "keeping", "while keeping", "hold", "holding", "maintain", "maintaining"),
        *("preserve", "preserving", "retaining"),
    ),
    "with": (
        *(
            "with",
            "using",
            "while",
            "but",
            "subject to",
            "s.t.",
            "such that",
            "so that",
            "where",
            "having",
        ),
        *("provided", "given", "if", "use", "uses", "spending", "spend", "costing"),
    ),
    "by": ("by",),
    "to": ("to", "towards"),
    "at": ("at", "@"),
    "in": ("in", "for", "during", "over the next"),
    "context": (
        *("context", "contexts", "context length", "sequence length", "context window", "length"),
        *("tokens of context", "token context", "token contexts"),
    ),
    "overnight": ("overnight", "over night", "all night", "tonight"),
    "factor": ("a factor", "factor", "a factor of"),
    "percentsign": ("%", "percent", "per cent"),
    "x": ("x", "×", "times", "fold"),
    "dollar": ("$", "usd", "dollar", "dollars"),
    "trialword": ("trial", "trials", "runs"),
    "tokenword": ("token", "tokens", "model tokens", "language model tokens"),
    "gpuword": ("gpu",),
    "baseline": ("baseline", "baselines", "baseline's"),
    "stop": (
        *("the", "a", "an", "this", "that", "our", "my", "its", "their", "of", "on", "all", "and"),
        *("or", "please", "i", "we", "want", "would", "like", "need", "should", "can", "could"),
        *(
            "you",
            "try",
            "us",
            "me",
            "it",
            "is",
            "are",
            "be",
            "as",
            "many",
            "much",
            "than",
            "then",
            "also",
            "still",
        ),
        *("model", "models", "model's", "language", "transformer", "network", "architecture"),
        *("program", "python", "source", "code", "byte level", "task", "current", "compared"),
        *("budget", "time", "i'd", "we'd", "let's", "stay", "staying", "stays", "remains"),
    ),
}

COMPARES = {
    "<=": (
        *("at most", "below", "under", "less than", "fewer than", "no more than", "not more than"),
        *("lower than", "smaller than", "up to", "maximum", "max", "maximum of", "beneath"),
        *("a maximum of", "not above", "not over", "<=", "<", "≤", "=<", "not exceeding"),
        *("without exceeding", "no larger than", "no bigger than", "no higher than"),
    ),
    ">=": (
        *("at least", "above", "over", "more than", "greater than", "higher than", "no less than"),
        *("not less than", "not below", "no fewer than", "minimum", "a minimum of", ">="),
        *(">", "≥", "=>", "exceeding", "larger than", "no lower than"),
    ),
}

TIMES = {"twice": 2.0, "twofold": 2.0, "threefold": 3.0, "thrice": 3.0, "tenfold": 10.0}

FRACTIONS = {
    "half": 1 / 2,
    "a half": 1 / 2,
    "one half": 1 / 2,
    "a third": 1 / 3,
    "one third": 1 / 3,
    "two thirds": 2 / 3,
    "a quarter": 1 / 4,
    "one quarter": 1 / 4,
    "three quarters": 3 / 4,
    "a tenth": 1 / 10,
    "one tenth": 1 / 10,
}

SPELLED = {
    "one": 1.0,
    "two": 2.0,
    "three": 3.0,
    "four": 4.0,
    "five": 5.0,
    "six": 6.0,
    "seven": 7.0,
    "eight": 8.0,
    "nine": 9.0,
    "ten": 10.0,
    "eleven": 11.0,
    "twelve": 12.0,
}

SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "bn": 1e9}

SECONDS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}

DURATIONS = {
    "half an hour": 1800.0,
    "an hour": 3600.0,
    "a minute": 60.0,
    "half a minute": 30.0,
    "a day": 86400.0,
    "half a day": 43200.0,
    "an hour and a half": 5400.0,
}

UNITS = {
    "b": ("bytes", 1.0),
    "byte": ("bytes", 1.0),
    "bytes": ("bytes", 1.0),
    "kb": ("bytes", 2.0**10),
    "kib": ("bytes", 2.0**10),
    "mb": ("bytes", 2.0**20),
    "mib": ("bytes", 2.0**20),
    "gb": ("bytes", 2.0**30),
    "gib": ("bytes", 2.0**30),
    "ms": ("seconds", 1e-3),
    "millisecond": ("seconds", 1e-3),
    "milliseconds": ("seconds", 1e-3),
}
"""What a unit measures and how much of it. MB is 2**20 bytes, as the lab's memory meter counts."""

METRIC_UNITS = {
    "peak_memory_mb": ("bytes", 2.0**20),
    "kv_bytes_per_token": ("bytes", 1.0),
    "prefill_ms": ("seconds", 1e-3),
    "decode_ms": ("seconds", 1e-3),
}

CLOCK_WORDS = {"noon": 12 * 60, "midnight": 0, "the morning": 7 * 60, "morning": 7 * 60}

HINTS = {
    "perplexity": "bits per byte is its logarithm",
    "training loss": "only the validation loss is scored",
    "train loss": "only the validation loss is scored",
    "experiments": "a budget counts trials",
    "points": "a change is read in percent of the baseline",
    "speed": "say training throughput, prefill latency or decode latency",
}
"""Words that people use here and that cannot be read, with the reason."""

FORMS = (
    "lower METRIC",
    "raise METRIC by 5 %",
    "halve METRIC",
    "get METRIC below 2.9",
    "2x faster decoding",
    "without more parameters",
    "within 1 % accuracy",
    "at equal quality",
    "no slower",
    "with at most 200k parameters",
    "while keeping accuracy above 0.9",
    "in 30 minutes",
    "200 trials",
    "overnight",
    "until 6:30",
    "for at most $5",
    "10000 tokens",
)

AT_CONTEXT = frozenset({"prefill_ms", "decode_ms"})
"""Metrics that are always measured at a context length."""
