"""The encoder families: a row says where a checkpoint keeps its parts.

All of them are the same thing to us: embeddings, then a list of layers, of which each takes and
gives the hidden state. Those of Hugging Face read passages, one by one; LongVQ reads documents.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """How one `model_type` names its parts.

    Attributes:
        model_type: the name in `config.json`, and the family in an `EncoderIdentity`.
        architecture: the class in `transformers` that is the encoder alone; empty: it is our own.
        embeddings, layers: paths of submodules; the output of the first enters layer 0 of the
            second.
        num_layers_key, width_key: fields of `config.json`.
        has_positions: the model has a table of positions, which bounds the length of its input.
        counts_from_pad: positions start at `pad_token_id + 1`, so that many rows of the table are
            not for tokens.
        is_post_norm: a layer's output is normalized, so that no token or dimension is loud.
        has_pooler: the class builds a task head that is not wanted here.
        is_document_wide: a document is read whole, however long; its passages are spans of it.
    """

    model_type: str
    architecture: str
    embeddings: str
    layers: str
    num_layers_key: str = "num_hidden_layers"
    width_key: str = "hidden_size"
    has_positions: bool = True
    counts_from_pad: bool = False
    is_post_norm: bool = True
    has_pooler: bool = False
    is_document_wide: bool = False


def _bert_like(model_type: str, architecture: str, *, counts_from_pad: bool) -> Family:
    return Family(
        model_type,
        architecture,
        "embeddings",
        "encoder.layer",
        counts_from_pad=counts_from_pad,
        has_pooler=True,
    )


def _t5_like(model_type: str, architecture: str) -> Family:
    return Family(
        model_type,
        architecture,
        "encoder.embed_tokens",
        "encoder.block",
        num_layers_key="num_layers",
        width_key="d_model",
        has_positions=False,
        is_post_norm=False,
    )


FAMILIES = {
    family.model_type: family
    for family in (
        _bert_like("bert", "BertModel", counts_from_pad=False),
        _bert_like("roberta", "RobertaModel", counts_from_pad=True),
        _bert_like("xlm-roberta", "XLMRobertaModel", counts_from_pad=True),
        _bert_like("mpnet", "MPNetModel", counts_from_pad=True),
        Family(
            "distilbert",
            "DistilBertModel",
            "embeddings",
            "transformer.layer",
            num_layers_key="n_layers",
            width_key="dim",
        ),
        _t5_like("t5", "T5EncoderModel"),
        _t5_like("mt5", "MT5EncoderModel"),
        Family(
            "memstore-longvq",
            "",
            "embedding",
            "blocks",
            num_layers_key="num_layers",
            width_key="dim",
            has_positions=False,
            is_post_norm=False,
            is_document_wide=True,
        ),
    )
}
