"""Times the stages inside the network by hooks, for strategies that go through transformers' own generate()."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ml.benchmarks.stages import Mark, Stages
from ml.borealis.model import BorealisModel


class NetworkProbe:
    """Hooks on a model's parts; they record on threads that ask for it, each into its own Stages."""

    def __init__(self, model: BorealisModel) -> None:
        self._local = threading.local()
        network = model.network.model
        encoders = [network.audio_tower, network.multi_modal_projector, *([model.encoder] if model.encoder else [])]
        self._handles = [
            *self._hook(model.log_mel, "features"),
            *(handle for part in encoders for handle in self._hook(part, "encode")),
            network.language_model.register_forward_pre_hook(self._before_language_model, with_kwargs=True),
            network.language_model.register_forward_hook(self._after_language_model, with_kwargs=True),
        ]

    @contextmanager
    def recording(self, stages: Stages, only: str | None = None) -> Iterator[None]:
        """Records what this thread does within the block, or only one stage of it."""
        self._local.stages, self._local.only, self._local.last = stages, only, None
        try:
            yield
        finally:
            self._local.stages = None

    def close(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()

    @property
    def _stages(self) -> Stages | None:
        return getattr(self._local, "stages", None)

    def _hook(self, part: nn.Module, stage: str) -> list[Any]:
        def before(module: nn.Module, arguments: Any) -> None:
            if self._stages and self._local.only in (None, stage):
                self._local.start = self._stages.mark()

        def after(module: nn.Module, arguments: Any, result: Any) -> None:
            if self._stages and self._local.only in (None, stage):
                self._stages.add_span(stage, self._local.start, self._stages.mark())

        return [part.register_forward_pre_hook(before), part.register_forward_hook(after)]

    def _before_language_model(self, module: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
        if self._stages and named["inputs_embeds"].shape[1] > 1:
            self._local.start = self._stages.mark()

    def _after_language_model(self, module: nn.Module, arguments: Any, named: dict[str, Any], result: Any) -> None:
        """A prefill lasts as long as its forward pass, a step from the end of the one before to its own end."""
        if not self._stages:
            return
        rows, length = named["inputs_embeds"].shape[:2]
        end: Mark = self._stages.mark()
        if length > 1:
            self._stages.add_span("prefill", self._local.start, end)
        elif self._local.last:
            self._stages.add_span("steps", self._local.last, end)
            self._stages.count("n_steps", 1)
            self._stages.count("stepped_rows", rows)
        self._local.last = end
