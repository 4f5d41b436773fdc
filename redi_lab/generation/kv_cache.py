"""A KV cache that is allocated once for a whole batch.

The default cache of transformers copies all past keys and values at every step, which takes most of the time of a
small model on a CPU, and twice the cache's memory for a moment on any device. Here a step writes into its place, and
the memory of a batch is known before it starts.
"""

from __future__ import annotations

from typing import Any, final

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache


@final
class PreallocatedLayer(CacheLayerMixin):
    """Keys and values of one attention layer, each of shape (rows, heads, capacity, head size).

    Args:
        capacity: Tokens of the padded prompt and all new tokens.
    """

    is_sliding = False

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity
        self._length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate, with the type and device of the first states; shapes (rows, heads, tokens, head size)."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states.new_empty((*key_states.shape[:2], self._capacity, key_states.shape[-1]))
        self.values = value_states.new_empty((*value_states.shape[:2], self._capacity, value_states.shape[-1]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append states; return views of everything so far, shape (rows, heads, length, head size)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self._length + key_states.shape[-2]
        self.keys[:, :, self._length : end] = key_states
        self.values[:, :, self._length : end] = value_states
        self._length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows alone, shape (kept rows,)."""
        self.keys, self.values = self.keys[indices], self.values[indices]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length that the attention mask must cover, and where it starts."""
        return self._length + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens stored so far."""
        return self._length

    def get_max_length(self) -> int:
        """Tokens that fit."""
        return self._capacity


def empty_cache(config: Any, capacity: int) -> Cache:
    """An empty cache for one batch; transformers' own where a model is not made of full attention layers alone.

    Args:
        config: The model's configuration.
        capacity: Tokens of the padded prompt and all new tokens.
    """
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    if any(kind != "full_attention" for kind in kinds) or getattr(config, "sliding_window", None):
        return DynamicCache(config=config)
    return Cache(layers=[PreallocatedLayer(capacity) for _ in kinds])
