"""LoRA training by TRL; the only module that knows trl, peft and datasets."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightlab.agents.finetune.examples import Example, Talk
from nightlab.agents.finetune.scoring import Diversity, read, rewards
from nightlab.agents.finetune.selection import Group, Pair
from nightlab.errors import MissingError, UsageError

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""For a base model whose tokenizer has no chat template."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained. Sizes from the literature (docs/finetune.md), not swept here."""

    steps: int = 100
    rate: float = 1e-4
    batch: int = 2
    rank: int = 16
    """Of the LoRA matrices; alpha is twice it."""
    most_tokens: int = 4096
    """Of prompt and answer; longer ones are cut."""
    answer_tokens: int = 256
    """Longest sampled answer."""
    group: int = 4
    """Answers per prompt in GRPO; entropic advantages need four."""
    beta: float = 0.4
    """DPO's pull to the start (EvoTune, arXiv 2504.05108)."""
    check_every: int = 20
    """Steps between two looks at the diversity of sampled answers."""
    seed: int = 0


@dataclass
class Trained:
    """What training did."""

    losses: list[float] = field(default_factory=list)
    steps: int = 0
    stopped: str = ""
    """Why it ended early; empty where it did not."""
    before: Diversity | None = None
    after: Diversity | None = None
    samples: tuple[str, ...] = ()
    """Answers of the trained model."""


class Trainee:
    """A base model with an adapter in the making.

    Raises MissingError without the extra ``finetune``, UsageError for a base that cannot be read.
    """

    def __init__(self, base: str, recipe: Recipe, probes: Sequence[Group]) -> None:
        self.recipe = recipe
        self.probes = probes
        self.trl, self.peft = _library("trl"), _library("peft")
        self.transformers, self.torch = _library("transformers"), _library("torch")
        self.transformers.set_seed(recipe.seed)
        try:
            self.tokenizer = self.transformers.AutoTokenizer.from_pretrained(base)
            self.model = self.transformers.AutoModelForCausalLM.from_pretrained(base)
        except (OSError, ValueError) as cause:
            raise UsageError(f"the base model {base!r} cannot be read: {cause}") from cause
        if self.tokenizer.chat_template is None:
            self.tokenizer.chat_template = TEMPLATE
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def sft(self, rows: Sequence[Example], say: Callable[[str], None]) -> Trained:
        """Supervised, on confirmed improvements; only the answers count."""
        data = self._dataset(
            [{"prompt": list(r.prompt), "completion": _answer(r.answer)} for r in rows]
        )
        settings = self._settings(
            self.trl.SFTConfig, max_length=self.recipe.most_tokens, completion_only_loss=True
        )
        return self._run(self.trl.SFTTrainer, settings, data, say)

    def dpo(self, pairs: Sequence[Pair], say: Callable[[str], None]) -> Trained:
        """Direct preference optimisation on siblings."""
        data = self._dataset(
            [
                {
                    "prompt": list(p.prompt),
                    "chosen": _answer(p.chosen),
                    "rejected": _answer(p.rejected),
                }
                for p in pairs
            ]
        )
        settings = self._settings(
            self.trl.DPOConfig, max_length=self.recipe.most_tokens, beta=self.recipe.beta
        )
        return self._run(self.trl.DPOTrainer, settings, data, say)

    def grpo(self, groups: Sequence[Group], say: Callable[[str], None]) -> Trained:
        """On-policy groups: the model answers, the ledger's table pays, the maximum counts."""
        data = self._dataset(
            [{"prompt": list(g.prompt), "at": place} for place, g in enumerate(groups)]
        )
        settings = self._settings(
            self.trl.GRPOConfig,
            num_generations=self.recipe.group,
            max_completion_length=self.recipe.answer_tokens,
            scale_rewards="none",
            beta=0.0,
            per_device_train_batch_size=self.recipe.group,
        )
        return self._run(
            self.trl.GRPOTrainer, settings, data, say, reward_funcs=_paid(groups, self.recipe.group)
        )

    def export(self, out: Path) -> tuple[Path, Path]:
        """The adapter, and the base with it merged in: for vLLM and llama.cpp."""
        adapter, merged = out / "adapter", out / "merged"
        self.model.save_pretrained(adapter)
        whole = self.model.merge_and_unload()
        whole.save_pretrained(merged, safe_serialization=True)
        for folder in (adapter, merged):
            self.tokenizer.save_pretrained(folder)
        return adapter, merged

    def answers(self, talk: Talk, count: int) -> list[str]:
        """Sampled at temperature 1."""
        shown = self.tokenizer.apply_chat_template(
            [dict(message) for message in talk],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
            truncation=True,
            max_length=self.recipe.most_tokens,
        ).to(self.model.device)
        self.model.eval()
        with self.torch.no_grad():
            made = self.model.generate(
                **shown,
                do_sample=True,
                temperature=1.0,
                num_return_sequences=count,
                max_new_tokens=self.recipe.answer_tokens,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        start = shown["input_ids"].shape[1]
        return [str(self.tokenizer.decode(row[start:], skip_special_tokens=True)) for row in made]

    def look(self) -> tuple[Diversity, list[str]]:
        """Answers to the probes."""
        texts, found = [], []
        for group in self.probes:
            said = self.answers(group.prompt, 4)
            texts += said
            found += [read(text, group) for text in said]
        return Diversity.of(texts, found), texts

    def _dataset(self, rows: Sequence[Mapping[str, object]]) -> Any:
        return _library("datasets").Dataset.from_list([dict(row) for row in rows])

    def _settings(self, kind: Any, **own: object) -> Any:
        recipe = self.recipe
        return kind(
            **{
                "output_dir": "unused",
                "max_steps": recipe.steps,
                "learning_rate": recipe.rate,
                "per_device_train_batch_size": recipe.batch,
                "lr_scheduler_type": "cosine",
                "logging_steps": 1,
                "save_strategy": "no",
                "report_to": "none",
                "disable_tqdm": True,
                "seed": recipe.seed,
                "bf16": False,
                "use_cpu": not self.torch.cuda.is_available(),
                **own,
            }
        )

    def _run(
        self, kind: Any, settings: Any, data: Any, say: Callable[[str], None], **more: object
    ) -> Trained:
        done = Trained()
        lora = self.peft.LoraConfig(
            r=self.recipe.rank,
            lora_alpha=2 * self.recipe.rank,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        if self.probes:
            done.before = self.look()[0]
        trainer = kind(
            model=self.model,
            args=settings,
            train_dataset=data,
            processing_class=self.tokenizer,
            peft_config=lora,
            callbacks=[self._watch(done, say)],
            **more,
        )
        self.model = trainer.model
        trainer.train()
        done.steps = int(trainer.state.global_step)
        if self.probes:
            done.after, said = self.look()
            done.samples = tuple(said)
        return done

    def _watch(self, done: Trained, say: Callable[[str], None]) -> Any:
        """Hears every loss, and stops at a collapse."""
        trainee, recipe = self, self.recipe

        class Watch(self.transformers.TrainerCallback):  # type: ignore[name-defined, misc]
            def on_log(self, args: Any, state: Any, control: Any, **kept: Any) -> None:
                loss = (kept.get("logs") or {}).get("loss")
                if loss is not None:
                    done.losses.append(float(loss))
                    say(f"step {state.global_step}/{recipe.steps}: loss {float(loss):.4f}")

            def on_step_end(self, args: Any, state: Any, control: Any, **kept: Any) -> None:
                if state.global_step % recipe.check_every or done.before is None:
                    return
                why = trainee.look()[0].collapsed(done.before)
                trainee.model.train()
                if why:
                    done.stopped = f"collapse: {why}"
                    say(done.stopped)
                    control.should_training_stop = True

        return Watch()


def _paid(groups: Sequence[Group], size: int) -> Callable[..., list[float]]:
    """TRL's reward function: completions come in runs of ``size`` of one prompt. What it returns
    is the advantage, so TRL's own scaling is off."""

    def worth(completions: Sequence[Any], at: Sequence[int], **_: object) -> list[float]:
        texts = [c if isinstance(c, str) else str(c[-1]["content"]) for c in completions]
        paid: list[float] = []
        for first in range(0, len(texts), size):
            paid += rewards(texts[first : first + size], groups[at[first]])
        return paid

    return worth


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _library(name: str) -> Any:
    """One of the extra's libraries."""
    try:
        return importlib.import_module(name)
    except ImportError as cause:
        raise MissingError(
            f"{name} is not installed ({cause}): pip install 'nightlab[finetune]'"
        ) from cause
