"""The decoder as a model of transformers. The text of this module goes into an exported file; ablate itself
never imports it.

transformers calls what a model remembers `past_key_values`, and in later versions `cache`; here it may be
given by either name.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from ablate.model.decoder import Backbone
from ablate.model.hf.code.stand_ins import ModelSpec
from ablate.parts.base import ForwardContext

CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class AblateConfig(PretrainedConfig):  # type: ignore[misc]
    """`model` holds the options of the model, each part with its kind and name."""

    model_type = "ablate"

    def __init__(self, model: dict[str, Any] | None = None, **others: Any):
        self.model = model or {}
        super().__init__(**others)


class Remembered:
    """What a model remembers of the rows of a batch: what its layers do, and where each row begins."""

    is_compileable = is_croppable = False
    is_linear = (False,)

    def __init__(self, decoder: Backbone, capacity: int):
        self.memories, self.capacity = decoder.memories(capacity), capacity
        self.seen = 0  # tokens of a row, padding included
        self.first: Tensor | None = None  # (B, 1) the column where each row begins; None: all at 0
        self.prefix: Tensor | None = None  # (B,)

    def get_seq_length(self, layer: int = 0) -> int:
        return self.seen

    def next_call(self, tokens: Tensor) -> ForwardContext:
        """The tokens (B,T) that come after what is remembered."""
        columns = torch.arange(self.seen, self.seen + tokens.shape[1], device=tokens.device)[None]
        if self.first is None:
            return ForwardContext(columns, prefix=self.prefix)
        return ForwardContext(columns - self.first, torch.zeros_like(tokens), self.prefix)

    def join(self, call: ForwardContext) -> None:
        """Let the call read what is remembered, and be remembered. Raises ValueError."""
        seen, self.seen = self.seen, self.seen + call.positions.shape[1]
        if self.seen > self.capacity:
            raise ValueError(f"the cache has room for {self.capacity} tokens; {self.seen} were given")
        if not seen:
            self.prefix = call.prefix
            self.first = None if call.document is None else -call.positions[:, :1]
            if padded_right(call):
                raise ValueError("a row that is padded on the right cannot go on: pad on the left")
        call.memories = self.memories

    def reorder_cache(self, rows: Tensor) -> None:
        """For beam search: row n goes on from what row `rows[n]` remembers."""
        self.first = chosen(self.first, rows)
        self.prefix = None if self.prefix is None else self.prefix[rows]
        for memory in self.memories:
            for name, value in vars(memory).items():
                setattr(memory, name, chosen(value, rows))


def chosen(value: Any, rows: Tensor) -> Any:
    """The rows of every tensor (B,...) in a value; where there is a single one, it is for all."""
    if isinstance(value, dict):
        return {key: chosen(each, rows) for key, each in value.items()}
    if isinstance(value, tuple):
        return tuple(chosen(each, rows) for each in value)
    return value[rows] if isinstance(value, Tensor) and value.ndim > 1 and len(value) > 1 else value


def first_call(tokens: Tensor, mask: Tensor | None, prefix: Tensor | None) -> ForwardContext:
    """Rows (B,T) from their beginning, padded where the mask (B,T) is 0. Padding is a document of its own,
    which no token sees. Raises ValueError for a mask that says anything but padding on one side."""
    columns = torch.arange(tokens.shape[1], device=tokens.device)[None]
    if mask is None or mask.all():
        return ForwardContext(columns, prefix=prefix)
    if mask.shape != tokens.shape or ((mask[:, 1:] != 0) != (mask[:, :-1] != 0)).sum(1).max() > 1:
        raise ValueError(
            f"attention_mask {[*mask.shape]}: needs a number for each of {[*tokens.shape]} tokens, 0 for "
            "padding, which is on one side of a row"
        )
    real = mask != 0
    positions = columns - real.int().argmax(1, keepdim=True)
    return ForwardContext(positions, torch.where(real, 0, -1), prefix, real=real)


def padded_right(call: ForwardContext) -> bool:
    """Whether some row ends before the others."""
    return call.document is not None and bool((call.document[:, -1] < 0).any())


class AblateForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The decoder, as transformers calls it and generates from it."""

    config_class = AblateConfig
    base_model_prefix = "decoder"
    _is_stateful = True  # what a recurrent layer remembers cannot be cut shorter

    def __init__(self, config: AblateConfig):
        super().__init__(config)
        self.decoder = Backbone(ModelSpec(config.model))  # type: ignore[arg-type]
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.embedding

    def get_output_embeddings(self) -> None:
        """The head is no module of its own where its matrix is the embedding's."""

    def _init_weights(self, module: nn.Module) -> None:
        """Called where there are no weights. Raises ValueError: how a model starts is not in this file."""
        if not any(tensor.is_meta for tensor in module.parameters(recurse=False)):
            raise ValueError(
                f"{type(module).__name__} has no weights, and this file no values to start from: "
                "use from_pretrained, with the weights of the whole model"
            )

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Remembered | None = None,
        cache: Remembered | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        prefix: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """input_ids (B,T) -> logits (B,T,V), or of the last `logits_to_keep` tokens.

        attention_mask (B,T) is 0 where a row is padded: on the left or, without a cache, on the right; with a
        cache its columns are all tokens so far. prefix (B,) is the length of what sees itself whole, for a
        model of prefixes. labels (B,T) are the tokens themselves, -100 where there is no loss. Raises
        ValueError.
        """
        past = past_key_values if cache is None else cache
        if past is not None and not isinstance(past, Remembered):
            raise ValueError(f"a {type(past).__name__} is no cache of this model, which makes its own")
        T = input_ids.shape[1]
        if past is None or not past.seen:
            call = first_call(input_ids, attention_mask, prefix)
        else:
            call = past.next_call(input_ids)
            if attention_mask is not None and not attention_mask[:, -T:].all():
                raise ValueError("attention_mask hides tokens that come after what the cache remembers")
        if use_cache is None:
            use_cache = not self.training and not padded_right(call)
        if past is None and use_cache:
            past = Remembered(self.decoder, max(T, self.config.model["context"]))
        if past is not None:
            past.join(call)
        call.last = logits_to_keep == 1
        logits = self.decoder.logits(input_ids, call)[:, -logits_to_keep:]
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        found = CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: past})
        return found.to_tuple() if return_dict is False else found

    def _prepare_cache_for_generation(
        self, config: Any, given: dict[str, Any], mode: Any, batch_size: int, max_cache_length: int
    ) -> None:
        """Generation has a cache with room for all of its tokens."""
        if given.get(CACHE) is None and config.use_cache:
            given[CACHE] = Remembered(self.decoder, max_cache_length)

    def init_continuous_batching(self, **given: Any) -> None:
        """Raises ValueError: what this model remembers lies in no pages."""
        raise ValueError(
            "continuous batching needs the attention of transformers: call generate, or export the model as "
            "one of its families, if any expresses it"
        )

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **given: Any
    ) -> dict[str, Any]:
        """The tokens that the cache has not seen. A model of prefixes reads the prompt as its prefix. Raises
        ValueError where it would have to find the prompt again."""
        past = given.get(CACHE)
        seen = 0 if past is None else past.seen
        if attention_mask is not None:
            seen = max(0, seen + input_ids.shape[1] - attention_mask.shape[1])  # new tokens may come alone
        taken = {"input_ids": input_ids[:, seen:], "attention_mask": attention_mask, CACHE: past}
        if any(group.prefix for group in self.decoder.groups) and (past is None or not past.seen):
            if past is None:
                raise ValueError("a model of prefixes generates with its cache alone: say use_cache=True")
            whole = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            taken["prefix"] = whole.sum(1)
        return {**taken, "use_cache": past is not None, "logits_to_keep": 1}
