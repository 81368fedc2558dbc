"""Writes tests/golden/ref_logits_xlm_kinds.pt with the real facebookresearch/XLM: python make_golden.py CHECKOUT OUT.

A dict by kind of model: `checkpoint` as XLM's Trainer.save_checkpoint writes it (without the training state), what was
asked (`x`, `lengths`, `langs`; batch first), and the logits of its own model, `y` and `causal`. Made with XLM cd281d3
and torch 2.13. The arguments are those of its own parser (train.py), out of the sample xlm_original.tiny.pth.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

SPECIAL = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{number}>" for number in range(10))]
WORDS = ["lo", "hel@@", "l@@", "o@@", "wor@@", "ld", "The", "été", "w@@", "@-@", "h@@", "d", "r", "e@@", "o", "he@@"]
SMALL = {"emb_dim": 8, "n_layers": 2, "n_heads": 4, "encoder_only": True}
KINDS: dict[str, dict[str, Any]] = {
    "one language": {"langs": ["en"]},
    "language embeddings": {"langs": ["en", "fr", "de"]},
    "languages without embeddings": {"langs": ["en", "fr", "de"], "use_lang_emb": False},
    "untied": {"langs": ["en"], "share_inout_emb": False},
    "relu": {"langs": ["en"], "gelu_activation": False},
    "sinusoidal": {"langs": ["en", "fr"], "sinusoidal_embeddings": True},
    "three layers, eight heads": {"langs": ["en"], "n_layers": 3, "n_heads": 8},
    "adaptive softmax": {"langs": ["en"], "asm": True, "share_inout_emb": False, "asm_cutoffs": "18,24"},
    "encoder and decoder": {"langs": ["en", "fr"], "encoder_only": False},
}


def main(checkout: str, out: str) -> None:
    """Build, run and save every kind."""
    sys.path.insert(0, checkout)
    from xlm.data.dictionary import Dictionary
    from xlm.data.loader import set_dico_parameters
    from xlm.model.transformer import TransformerModel

    sample = Path(__file__).resolve().parents[1] / "golden" / "xlm_original.tiny.pth"
    parsed = torch.load(sample, weights_only=False)["params"]  # the real code's own file
    for name in ("bos_index", "mono_dataset", "pred_probs", "mask_scores"):
        del parsed[name]
    words = [*SPECIAL, *WORDS]
    counts = {word: 0 if number < len(SPECIAL) else 900 - number for number, word in enumerate(words)}
    made = {}
    for kind, asked in KINDS.items():
        torch.manual_seed(0)
        params = Namespace(**{**parsed, **SMALL, "asm_div_value": 4, **asked})
        params.id2lang = dict(enumerate(params.langs))
        params.lang2id = {name: number for number, name in params.id2lang.items()}
        params.n_langs = len(params.langs)
        if params.asm:
            params.asm_cutoffs = [int(each) for each in params.asm_cutoffs.split(",")]
        dico = Dictionary(dict(enumerate(words)), {word: number for number, word in enumerate(words)}, counts)
        set_dico_parameters(params, {}, dico)
        names = ["model"] if params.encoder_only else ["encoder", "decoder"]
        with torch.no_grad():  # for its sinusoidal embeddings, which torch 2 refuses to fill otherwise
            models = {name: TransformerModel(params, dico, name != "decoder", True).eval() for name in names}
        for model in models.values():
            shake(model)
        x = torch.tensor([[1, 20, 21, 22, 17, 1], [1, 25, 14, 1, 2, 2]])
        lengths = torch.tensor([6, 4])
        langs = torch.tensor([[0, 0, 1, 1, 0, 1], [1, 1, 1, 0, 0, 0]]) % params.n_langs
        spoken = langs.t() if hasattr(models[names[0]], "lang_embeddings") else None
        logits = {}
        with torch.no_grad():
            for causal in (False, True):
                found = models[names[0]]("fwd", x=x.t(), lengths=lengths, langs=spoken, causal=causal)
                logits[causal] = models[names[0]].pred_layer.get_scores(found.flatten(0, 1)).unflatten(0, (6, 2))
        made[kind] = {
            "checkpoint": {
                **{name: model.state_dict() for name, model in models.items()},
                "dico_id2word": dico.id2word,
                "dico_word2id": dico.word2id,
                "dico_counts": dico.counts,
                "params": dict(vars(params)),
            },
            "x": x,
            "lengths": lengths,
            "langs": langs,
            "y": logits[False].transpose(0, 1).contiguous(),
            "causal": logits[True].transpose(0, 1).contiguous(),
        }
    torch.save(made, Path(out))


def shake(model: Any) -> None:
    """Random biases and norms; the padding's embedding as well."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1 or name == "embeddings.weight":
                weight += 0.1 * torch.randn_like(weight)


if __name__ == "__main__":
    main(*sys.argv[1:])
