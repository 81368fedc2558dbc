"""Fine-tuning with transformers' own Seq2SeqTrainer, on the number words of examples/deltalm-numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from ckptconv.hf import DeltaLMForConditionalGeneration

Model = DeltaLMForConditionalGeneration
pytestmark = pytest.mark.usefixtures("no_warnings")
Batch = dict[str, Tensor]


@pytest.fixture
def examples(numbers_dir: Path, encode: Callable[[str], list[int]]) -> list[dict[str, list[int]]]:
    source, target = (
        (numbers_dir / f"test.{language}").read_text(encoding="utf-8").splitlines() for language in ("de", "en")
    )
    return [{"input_ids": encode(a), "labels": encode(b)} for a, b in zip(source, target, strict=True)]


@pytest.fixture
def trainer_for(
    examples: list[dict[str, list[int]]], pad_batch: Callable[..., Tensor], tmp_path: Path
) -> Callable[..., Seq2SeqTrainer]:
    """make(model, **training arguments) → a trainer over the 100 test sentences."""

    def collate(rows: list[dict[str, list[int]]]) -> Batch:
        source = pad_batch([row["input_ids"] for row in rows])
        labels = pad_batch([row["labels"] for row in rows], value=-100)
        return {"input_ids": source, "attention_mask": (source != 1).long(), "labels": labels}

    def make(model: Model, **options: Any) -> Seq2SeqTrainer:
        settings = {
            "output_dir": str(tmp_path / "run"), "max_steps": 8, "per_device_train_batch_size": 20, "seed": 1,
            "learning_rate": 1e-3, "lr_scheduler_type": "constant", "report_to": [], "use_cpu": True,
            "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "predict_with_generate": True,
            "generation_max_length": 30, "dataloader_pin_memory": False,
        }  # fmt: skip
        return Seq2SeqTrainer(
            model=model, args=Seq2SeqTrainingArguments(**{**settings, **options}), train_dataset=examples,
            eval_dataset=examples[:20], data_collator=collate,
        )  # fmt: skip

    return make


@torch.no_grad()
def mean_loss(model: Model, trainer: Seq2SeqTrainer) -> float:
    model.eval()
    return model(**trainer.data_collator(trainer.train_dataset)).loss.item()  # type: ignore[no-any-return]


NAMES = {field.name for field in fields(Seq2SeqTrainingArguments)}
CHECKPOINTING = next(name for name in ("activation_checkpointing", "gradient_checkpointing") if name in NAMES)


@pytest.mark.parametrize("options", [{}, {CHECKPOINTING: True}, {"gradient_accumulation_steps": 2}],
                         ids=["plain", "checkpointing", "accumulation"])  # fmt: skip
def test_a_few_steps_lower_the_loss_and_save(
    numbers: Model, trainer_for: Callable[..., Seq2SeqTrainer], options: dict[str, Any], tmp_path: Path
) -> None:
    with torch.no_grad():  # far enough from the trained weights that there is something to learn
        torch.manual_seed(0)
        for weight in numbers.parameters():
            weight.add_(torch.randn_like(weight) * 0.03)
    trainer = trainer_for(numbers, **options)
    before = mean_loss(numbers, trainer)
    trainer.train()
    after = mean_loss(numbers, trainer)
    assert after < 0.8 * before
    trainer.save_model(str(tmp_path / "saved"))
    back = Model.from_pretrained(tmp_path / "saved")
    assert mean_loss(back, trainer) == pytest.approx(after, abs=1e-6)
    assert back.lm_head.weight is back.model.shared.weight


def test_accumulated_gradients_equal_one_large_batch(
    tiny: Callable[..., Model], trainer_for: Callable[..., Seq2SeqTrainer]
) -> None:
    found = []
    for size, parts in ((20, 1), (5, 4)):
        model = tiny(vocab_size=163, dropout=0.0)
        trainer_for(
            model, max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=parts, optim="sgd",
            max_grad_norm=0.0, learning_rate=0.1,
        ).train()  # fmt: skip
        found.append(model.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_evaluate_generates(numbers: Model, trainer_for: Callable[..., Seq2SeqTrainer]) -> None:
    trainer = trainer_for(numbers)
    predicted = trainer.predict(trainer.eval_dataset)
    labels = torch.tensor(predicted.label_ids)
    found = torch.tensor(predicted.predictions)[:, 1:]
    for row, expected in zip(found, labels, strict=True):
        assert row[row != 1].tolist() == expected[expected > 1].tolist()


def test_label_smoothing_of_trainer(numbers: Model, trainer_for: Callable[..., Seq2SeqTrainer]) -> None:
    trainer = trainer_for(numbers, label_smoothing_factor=0.1)
    batch = trainer.data_collator(trainer.eval_dataset)
    batch["decoder_input_ids"] = numbers.prepare_decoder_input_ids_from_labels(batch["labels"])
    numbers.eval()
    with torch.no_grad():
        loss = trainer.compute_loss(numbers, dict(batch)).item()
        log = numbers(**batch).logits.log_softmax(-1)
    counted = batch["labels"] != -100
    right = log.gather(2, batch["labels"].clamp(min=0)[:, :, None]).squeeze(2)
    expected = -(0.9 * right + 0.1 * log.mean(-1))[counted].mean().item()
    assert loss == pytest.approx(expected, abs=1e-5)
