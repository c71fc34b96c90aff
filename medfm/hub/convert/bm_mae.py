"""Official BM-MAE checkpoints (github.com/Lucas-rbnt/BM-MAE, arXiv 2505.00568) as a medfm backbone with its decoder.

A file is a bare state dict of encoder and decoder. Depending on the version of MONAI that wrote it, each block also holds
norms of a cross-attention that nothing passes (``norm_cross_attn``); they are left out. Widths, depths, patch and input size
are read from the tensors; the number of heads stands nowhere. Files that were pretrained on fewer sequences are read too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medfm.backbones.base import Backbone, build
from medfm.backbones.sequence_decoder import sequence_positions
from medfm.config.modalities import MRISettings
from medfm.hub.convert.base import ConvertedBackbone, plain_names, read_checkpoint
from medfm.types import ConfigError, ReadError

SEQUENCES = ("t1", "t1ce", "t2", "flair")  # in the order in which the official network joins their tokens
HEADS = 12
UNUSED = re.compile(r".*\.norm_cross_attn\.(weight|bias)")
TOKENIZER = "tokenizers.{}.patch_embedding."
DECODER_BLOCKS = "decoder.decoder_blocks."
RENAMED = (
    ("decoder.decoder_blocks.", "decoder.blocks."),
    ("decoder.decoder_embed.", "decoder.embed."),
    ("decoder.decoder_norm.", "decoder.norm."),
    ("decoder.decoder_pred.", "decoder.pred."),
    (".attn.out_proj.", ".attn.proj."),
    (".mlp.linear", ".mlp.fc"),
)
CITATIONS = [
    "Robinet, L., Berjaoui, A., Cohen-Jonathan Moyal, E.: Multimodal Masked Autoencoder Pre-training for 3D MRI-Based Brain "
    "Tumor Analysis with Missing Modalities. arXiv 2505.00568."
]
NORMALISATION = (
    "The file carries no preprocessing: 1 mm, and z-scores of each sequence over the voxels that are not 0, are those of the "
    "official code, which expects volumes as BraTS has them (sequences registered, skull stripped). It does not turn axes; "
    "medfm turns them to RAS."
)


def convert(
    checkpoint: Path, *, heads: str | None = None, decoder_heads: str | None = None
) -> ConvertedBackbone:
    """Read ``checkpoint`` and rebuild its network. ``heads``, ``decoder_heads``: where they are not 12, as official ones are.

    Raises :class:`ReadError` for any other layout, :class:`ConfigError` for heads that do not divide the width.
    """
    checkpoint = Path(checkpoint)
    content = read_checkpoint(checkpoint)
    weights = plain_names(content)
    sequences = _sequences(checkpoint.name, weights)
    backbone, size = _build(checkpoint.name, weights, sequences, heads, decoder_heads)
    settings = MRISettings(
        size=(size[0], size[1], size[2]), spacing=(1.0, 1.0, 1.0), sequences=sequences, foreground="nonzero"
    )
    notes = [NORMALISATION]
    if heads is None or decoder_heads is None:
        notes.append(
            f"The file does not say how many attention heads it has: {HEADS} are the official code's."
        )
    card = {
        "summary": f"Converted from the official BM-MAE checkpoint {checkpoint.name}, whose weights are unchanged.",
        "license": "other",
        "data": "What the official authors state of their checkpoint; medfm does not know it. Their repository is under CC BY-NC "
        "4.0: no commercial use, and do not pass the weights on without asking them.",
        "citations": CITATIONS,
    }
    return ConvertedBackbone(backbone, settings.model_dump(mode="json"), notes, card)


def _sequences(name: str, weights: dict[str, Tensor]) -> tuple[str, ...]:
    found = [k.split(".")[1] for k in weights if re.fullmatch(TOKENIZER.format("[^.]+") + r"patch_embeddings\.weight", k)]  # fmt: skip
    if not found:
        raise ReadError(
            f"{name} is no BM-MAE checkpoint: it holds no tokenizers.t1.patch_embedding.patch_embeddings.weight."
        )
    if unknown := sorted(set(found) - set(SEQUENCES)):
        raise ReadError(
            f"{name} has tokenizers of sequences that BM-MAE does not know: {', '.join(unknown)}."
        )
    if "decoder.mask_tokens" not in weights:
        raise ReadError(
            f"{name} has no decoder, so it is a fine-tuned BM-MAE; give the pretraining checkpoint, which `medfm finetune` "
            "adapts to your labels."
        )
    return tuple(s for s in SEQUENCES if s in found)


def _heads(given: str | None, width: int, option: str) -> int:
    count = int(given) if given is not None and given.isdecimal() else HEADS if given is None else 0
    if count < 1 or width % count:
        raise ConfigError(
            f"a width of {width} is not divided by {given or HEADS} attention heads; say the number with --set {option}=N."
        )
    return count


def _build(
    name: str,
    weights: dict[str, Tensor],
    sequences: tuple[str, ...],
    heads: str | None,
    decoder_heads: str | None,
) -> tuple[Backbone, list[int]]:
    first = TOKENIZER.format(sequences[0])
    needed = [
        f"{first}position_embeddings",
        "blocks.0.mlp.linear1.weight",
        "decoder.decoder_embed.weight",
        f"{DECODER_BLOCKS}0.mlp.linear1.weight",
    ]
    if missing := [k for k in needed if k not in weights]:
        raise ReadError(f"{name} is no BM-MAE checkpoint: {missing[0]} is missing.")
    dim, _, *patch = weights[f"{first}patch_embeddings.weight"].shape
    tokens = weights[f"{first}position_embeddings"].shape[1]
    side = round(tokens ** (1 / 3))
    decoder_dim = weights["decoder.decoder_embed.weight"].shape[0]
    if side**3 != tokens or len(patch) != 3:
        raise ReadError(f"{name} has positions for {tokens} patches, which are no cube.")
    size = [side * p for p in patch]
    backbone = build(
        {
            "name": "sequence_vit",
            "in_channels": len(sequences),
            "input_size": size,
            "patch": patch,
            "dim": dim,
            "depth": _depth(weights, "blocks."),
            "heads": _heads(heads, dim, "heads"),
            "mlp_dim": weights["blocks.0.mlp.linear1.weight"].shape[0],
            "decoder": "reconstruction",
            "decoder_dim": decoder_dim,
            "decoder_depth": _depth(weights, DECODER_BLOCKS),
            "decoder_heads": _heads(decoder_heads, decoder_dim, "decoder_heads"),
            "decoder_mlp_dim": weights[f"{DECODER_BLOCKS}0.mlp.linear1.weight"].shape[0],
        }
    )
    _check_positions(name, weights, (side,) * 3)
    state, expected = _state(weights, sequences), backbone.state_dict()
    wrong = sorted(
        k for k in expected.keys() | state.keys()
        if k not in expected or k not in state or expected[k].shape != state[k].shape
    )  # fmt: skip
    if wrong:
        raise ReadError(
            f"{name} does not fit BM-MAE: {', '.join(wrong[:3])} is missing, extra or of another shape."
        )
    backbone.load_state_dict(state)
    return backbone.eval(), size


def _depth(weights: dict[str, Tensor], prefix: str) -> int:
    return len({k.removeprefix(prefix).split(".")[0] for k in weights if k.startswith(prefix)})


def _check_positions(name: str, weights: dict[str, Tensor], grid: tuple[int, ...]) -> None:
    """Positions are fixed, so they are not kept; others than these were trained, and would quietly be lost."""
    for key, value in weights.items():
        if not key.endswith("position_embeddings"):
            continue
        expected = sequence_positions(grid, value.shape[-1])
        if value.shape != (1, *expected.shape) or not torch.allclose(value[0], expected, atol=1e-4):
            raise ReadError(f"{name} has other positions than BM-MAE's fixed ones: {key}.")


def _state(weights: dict[str, Tensor], sequences: tuple[str, ...]) -> dict[str, Tensor]:
    """Tensors under our names. Decoder embeddings of sequences without a tokenizer are left out."""
    weights = dict(weights)
    state: dict[str, Any] = {"decoder.mask_token": weights.pop("decoder.mask_tokens").flatten()}
    embeddings = {s: weights.pop(f"decoder.modality_embeddings.{s}", None) for s in SEQUENCES}
    rows = [value.flatten() for s in sequences if (value := embeddings[s]) is not None]
    if rows:  # one too few is told by the shape
        state["decoder.sequences"] = torch.stack(rows)
    for i, sequence in enumerate(sequences):
        prefix = TOKENIZER.format(sequence)
        for part in ("weight", "bias"):
            if (value := weights.pop(f"{prefix}patch_embeddings.{part}", None)) is not None:
                state[f"tokenizers.{i}.proj.{part}"] = value
    for key, value in weights.items():
        if key.endswith("position_embeddings") or UNUSED.fullmatch(key):
            continue
        for theirs, ours in RENAMED:
            key = key.replace(theirs, ours)
        state[key] = value
    return state
