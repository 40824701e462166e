"""The models that are loaded: which one a request means, and what was set for each. Lives on the engine's loop.

Knows nothing of how a model is loaded, or of requests.
"""

from dataclasses import replace

from hwledger_omlx.engine.generation import LoadedModel
from hwledger_omlx.engine.model_kind import called
from hwledger_omlx.errors import Error, ModelTaskError


class LoadedModels:
    """None at first."""

    def __init__(self) -> None:
        self._generating: dict[str, LoadedModel] = {}
        self._one_shot: dict[str, LoadedModel] = {}

    @property
    def generating(self) -> dict[str, LoadedModel]:
        """Those that generate text, by id."""
        return dict(self._generating)

    @property
    def of_any_kind(self) -> dict[str, LoadedModel]:
        """All, by id."""
        return self._generating | self._one_shot

    def add(self, model: LoadedModel) -> None:
        """One more. The first of those that generate text is the one of requests that name none."""
        model_id = model.folder.model_id
        if not model.placed.generates:
            self._one_shot[model_id] = model
            return
        self._generating[model_id] = model

    def remove(self, model_id: str) -> LoadedModel | None:
        """One less, if it was there."""
        return self._one_shot.pop(model_id, None) or self._generating.pop(model_id, None)

    def named(self, model_id: str | None, error: type[Error]) -> LoadedModel:
        """The model that generates text of that id; without an id the default one.

        Raises:
            Error: `error`: there is none.
            ModelTaskError: it generates no text.
        """
        wanted = model_id or next(iter(self._generating), "")
        if wanted in self._one_shot:
            kind = called(self._one_shot[wanted].placed.kind)
            raise ModelTaskError(f"{wanted} is {kind}, which does not generate text; name a model that does")
        if wanted not in self._generating:
            loaded = ", ".join(self._generating) or "none"
            named = repr(wanted) if wanted else "that generates text"
            raise error(f"no model {named} is loaded (loaded: {loaded}); load it first with engine.load(folder)")
        return self._generating[wanted]

    def limit_context(self, model_id: str, context_tokens: int) -> None:
        """Has the requests of a model that begin from now on take no more tokens, prompt and answer together.

        Args:
            model_id: of one that generates text and is loaded.
            context_tokens: 0 for what the model allows.
        """
        model = self._generating[model_id]
        self._generating[model_id] = replace(model, limit_tokens=context_tokens or None)
