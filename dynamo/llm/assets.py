"""What a front end does with a model card: tokenise, and write a conversation as the model's text."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dynamo.errors import InvalidArgument, NotFound
from dynamo.llm.gguf import GGUF, is_gguf, read_gguf
from dynamo.llm.template import ChatTemplate, find_template
from dynamo.llm.tokenizer import HuggingFaceTokenizer, Tokenizer, gguf_tokenizer, load_tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dynamo.llm.model import ModelDeploymentCard

__all__ = ["ModelAssets", "load_assets"]


class ModelAssets:
    """A tokeniser and chat templates, loaded when they are first needed.

    Parameters
    ----------
    name : of the model, for messages
    place : a folder, a GGUF file, or None for a model that has only a name
    tokenizer : a tokenizer.json or GGUF file that is used instead of what `place` has
    template : a file with a chat template that is used instead of the model's own
    """

    def __init__(
        self,
        name: str,
        place: "str | os.PathLike[str] | None" = None,
        *,
        tokenizer: "str | os.PathLike[str] | None" = None,
        template: "str | os.PathLike[str] | None" = None,
    ) -> None:
        self.name, self._place = name, pathlib.Path(place) if place is not None else None
        self._tokenizer_file, self._template_file = tokenizer, template
        self._gguf: GGUF | None = None
        self._tokenizer: Tokenizer | None = None
        self._templates: dict[str, ChatTemplate] | None = None

    @property
    def has_tokenizer(self) -> bool:
        """Whether the card names one; it may still prove unusable when it is loaded."""
        return self._place is not None or self._tokenizer_file is not None

    def _header(self) -> GGUF | None:
        if self._gguf is None:
            for place in (self._place, self._tokenizer_file):
                if place is not None and is_gguf(place):
                    self._gguf = read_gguf(place)
                    break
        return self._gguf

    @property
    def tokenizer(self) -> Tokenizer:
        """
        Raises
        ------
        NotFound : the model has none; the message says how to give it one
        """
        if self._tokenizer is None:
            source = self._tokenizer_file or self._place
            if source is None:
                raise NotFound(
                    f"the model {self.name!r} has no tokeniser: its worker registered a name without files, so it "
                    f"takes token ids only. Register it with model_path (a folder with tokenizer.json, or a GGUF file)"
                )
            if not pathlib.Path(source).exists():
                raise NotFound(
                    f"the tokeniser of the model {self.name!r} is not on this machine: {source} does not exist here"
                )
            header = self._header() if is_gguf(source) else None
            self._tokenizer = gguf_tokenizer(header) if header is not None else load_tokenizer(source)
        return self._tokenizer

    @property
    def templates(self) -> dict[str, ChatTemplate]:
        """Chat templates by name; "default" is always there."""
        if self._templates is None:
            tokenizer = self.tokenizer
            names: dict[str, str] = {}
            ends = (("bos_token", tokenizer.bos_id), ("eos_token", tokenizer.eos_ids[0] if tokenizer.eos_ids else None))
            for name, i in ends:
                if i is not None:
                    names[name] = tokenizer.tokens[i].decode("utf-8", "replace")
            place: pathlib.Path | GGUF | None = self._header()
            if place is None:
                source = self._tokenizer_file or self._place
                place = pathlib.Path(source) if source is not None else None
                if place is not None and not place.is_dir():
                    place = place.parent
            self._templates = find_template(place, custom=self._template_file, tokens=names)
        return self._templates

    def encode(self, text: str) -> "NDArray[np.uint32]":
        """The ids of a plain prompt."""
        return self.tokenizer.encode(text)

    def render(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """The text of a conversation; options as in `ChatTemplate.render`."""
        templates = self.templates
        named = "tool_use" if options.get("tools") and "tool_use" in templates else "default"
        return templates[named].render(messages, **options)

    def encode_chat(self, text: str) -> "NDArray[np.uint32]":
        """The ids of a text that a chat template wrote.

        Templates of a tokenizer.json write every special token themselves. Engines that read a GGUF put the token
        that begins a text before it unless the template has done so; so does this.
        """
        tokenizer = self.tokenizer
        if isinstance(tokenizer, HuggingFaceTokenizer):
            return tokenizer.encode(text, add_special=False)
        ids = tokenizer.encode(text, add_special=True)
        if tokenizer.adds_bos and len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_id:
            ids = ids[1:]
        return ids

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> "tuple[str, NDArray[np.uint32]]":
        """Text and ids of a conversation."""
        text = self.render(messages, **options)
        return text, self.encode_chat(text)


def load_assets(card: "ModelDeploymentCard") -> ModelAssets:
    """The assets that a card names. Files are opened on first use, so this does not fail for what is missing."""
    tokenizer, template = card.file("tokenizer"), card.file("chat_template_file")
    if tokenizer is not None and tokenizer[0] not in ("hf_tokenizer_json", "gguf"):
        raise InvalidArgument(
            f"the model {card.display_name!r} has a tokeniser of kind {tokenizer[0]!r}; "
            f"only hf_tokenizer_json and gguf are supported"
        )
    custom = template[1] if template is not None and template[0] == "hf_chat_template" else None
    return ModelAssets(card.display_name, None, tokenizer=tokenizer[1] if tokenizer else None, template=custom)
