"""What a LUMEN model is built from, as JSON values, and where its stack is cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import T5Config

from memstore.encoders import identity
from memstore.encoders.options import EncoderOptions
from memstore.errors import CorruptionError

# What the model is; of the rest, some says where a config came from, and some could make
# transformers fetch code.
_T5_KEYS = frozenset(T5Config.__annotations__) | {
    "decoder_start_token_id",
    "dense_act_fn",
    "is_gated_act",
    "scale_decoder_outputs",
}


@dataclass(frozen=True, slots=True)
class LumenConfig:
    """A T5 cut in two.

    Attributes:
        t5: the config of the T5 that was cut, as `describe_t5` gives it.
        num_frozen_layers: layers of the memory and the question encoder, 0 to all; the rest of the
            T5 encoder's layers are live.
        encoder_id: the encoder whose memories this model reads (`EncoderIdentity.id`); empty: not
            pinned.
        codec_id: the codec through which it was trained to read them; empty: not pinned.
        rotation_sha256: `rotation_digest` of the rotation that is folded into the weights; empty:
            none is.
        has_own_lm_head: the decoder's output matrix is not its embedding table (T5 v1.1, Flan).
    """

    t5: Mapping[str, Any]
    num_frozen_layers: int
    encoder_id: str = ""
    codec_id: str = ""
    rotation_sha256: str = ""
    has_own_lm_head: bool = False

    @property
    def num_layers(self) -> int:
        """Depth of the T5 encoder that was cut."""
        return int(self.t5["num_layers"])

    @property
    def num_live_layers(self) -> int:
        """Layers that run for each question over each of its passages."""
        return self.num_layers - self.num_frozen_layers

    @property
    def live_fraction(self) -> Fraction:
        """The live layers' share of all; 1: FiD, 0: pure memory."""
        return Fraction(self.num_live_layers, self.num_layers)

    @property
    def dim(self) -> int:
        """D, the width of a memory."""
        return int(self.t5["d_model"])

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def describe_t5(config: T5Config) -> dict[str, Any]:
    """Return what a T5 config says of the model, as JSON values."""
    values = config.to_diff_dict()
    # Left open by some configs, needed to begin an answer; T5 begins with the padding.
    if values.get("pad_token_id") is None:
        values["pad_token_id"] = 0
    if values.get("decoder_start_token_id") is None:
        values["decoder_start_token_id"] = values["pad_token_id"]
    return {key: value for key, value in values.items() if key in _T5_KEYS}


def count_frozen_layers(live_fraction: str | Fraction, num_layers: int) -> int:
    """Return how many of the layers lie below the cut.

    Raises:
        ConfigError: if `live_fraction` is not one, or cuts no whole layer.
    """
    share = EncoderOptions(live_fraction=str(live_fraction)).live_share
    return identity.count_frozen_layers(share, num_layers)


def parse_config(values: Mapping[str, Any], *, where: str) -> LumenConfig:
    """Read back what `LumenConfig.to_dict` wrote.

    Raises:
        CorruptionError: if a field is missing, unknown or of the wrong type.
    """
    try:
        config = LumenConfig(**values)
        wanted = {"t5": dict, "num_frozen_layers": int, "has_own_lm_head": bool}
        for field in fields(LumenConfig):
            value = getattr(config, field.name)
            if type(value) is not wanted.get(field.name, str):
                raise TypeError(f"{field.name} is {value!r}")  # noqa: TRY301 - joins the others
        unknown = sorted(config.t5.keys() - _T5_KEYS)
        if unknown:
            raise ValueError(f"t5 has unknown {unknown[0]}")  # noqa: TRY301
        t5 = T5Config.from_dict(dict(config.t5))
        sizes = (t5.vocab_size, t5.d_model, t5.d_kv, t5.d_ff, t5.num_heads, t5.num_layers)
        if min(sizes) < 1 or not 0 <= config.num_frozen_layers <= t5.num_layers:
            raise ValueError("a size is out of range")  # noqa: TRY301
    except (KeyError, TypeError, ValueError, StrictDataclassError) as err:
        raise CorruptionError(
            f"{where}: config.json is not that of a LUMEN model: {err}; restore the checkpoint",
            object=where,
        ) from err
    return config
