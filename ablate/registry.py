"""Names to parts. The signature of a part is the schema of its options.

A part is a class (or a function) whose keyword-only parameters are its options; what stands before
them is supplied by the model. Nothing is written twice: the registry turns the signature into a
pydantic schema that refuses unknown keys. This module imports no torch: a registry loads the
package that fills it (its `home`) when a name is first asked for.
"""

import importlib
import importlib.util
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVar, get_args, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    SerializationInfo,
    ValidationInfo,
    create_model,
    field_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema, to_jsonable_python

T = TypeVar("T", bound=Callable[..., Any])

registries: dict[str, "Registry"] = {}
OURS = ("name", "kind", "entry")  # what `Options` itself is asked for


class Numbers(BaseModel):
    """A schema whose numbers are numbers: true is no 1."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and info.field_name is not None:
            taken = set(_types(cls.model_fields[info.field_name].annotation))
            if taken & {int, float} and bool not in taken:
                raise PydanticCustomError("number", "needs a number, not true or false")
        return value


def _types(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inside in get_args(annotation):
        yield from _types(inside)


class Options(Numbers):
    """The options of one part: its name and what its signature declares."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)
    kind: ClassVar[str]
    name: str

    @property
    def entry(self) -> "Entry":
        return registries[self.kind][self.name]


@dataclass(frozen=True)
class Entry:
    """A registered part: its kind, its name, how it is made, its options and its paper."""

    kind: str
    name: str
    make: Callable[..., Any]
    options: type[Options]
    paper: str

    @property
    def source(self) -> Path:
        """The file that defines the part: its content belongs to the identity of a run."""
        return Path(inspect.getsourcefile(self.make) or "")


class Registry:
    """One kind of part. `registry(name, paper=...)` is the decorator that adds to it."""

    def __init__(self, kind: str, home: str):
        self.kind, self.home = kind, home
        self._entries: dict[str, Entry] = {}
        self._loaded = False
        registries[kind] = self

    def __call__(self, name: str, *, paper: str) -> Callable[[T], T]:
        """Register under `name`; `paper` is where the idea comes from (arXiv id or address)."""

        def add(make: T) -> T:
            if name in self._entries:
                there = self._entries[name].source
                raise ValueError(f"{self.kind} {name!r} is registered twice; first in {there}")
            options = _schema(self.kind, name, make)
            self._entries[name] = Entry(self.kind, name, make, options, paper)
            return make

        return add

    def __getitem__(self, name: str) -> Entry:
        self._load()
        try:
            return self._entries[name]
        except KeyError:
            raise KeyError(f"no {self.kind} is called {name!r}; there are {', '.join(self)}") from None

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def loaded(self) -> list[str]:
        """The names that are registered so far, without loading the rest."""
        return sorted(self._entries)

    def parse(self, node: Any) -> Options:
        """Options from a mapping with a `name`, or from a name alone. Raises ValidationError."""
        if isinstance(node, Options):
            return node
        node = {"name": node} if isinstance(node, str) else node
        if not isinstance(node, Mapping) or not isinstance(node.get("name"), str):
            raise PydanticCustomError(
                "part",
                "needs a mapping with the name of a {kind}; there are {names}",
                {"kind": self.kind, "names": ", ".join(self)},
            )
        if node["name"] not in self:
            raise PydanticCustomError(
                "part",
                "no {kind} is called '{name}'; there are {names}",
                {"kind": self.kind, "name": node["name"], "names": ", ".join(self)},
            )
        return self[node["name"]].options.model_validate(dict(node))

    def build(self, options: Any, *supplied: Any, **named: Any) -> Any:
        """The part itself: `supplied` is what the model gives, the rest comes from its options."""
        options = self.parse(options)
        chosen = {f: _factory(getattr(options, f)) for f in type(options).model_fields if f != "name"}
        return self[options.name].make(*supplied, **named, **chosen)

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True  # what is imported may ask too
        try:
            home = importlib.import_module(self.home)
            for module in pkgutil.iter_modules(getattr(home, "__path__", [])):
                importlib.import_module(f"{self.home}.{module.name}")
            for point in entry_points(group=f"ablate.{self.kind}"):
                point.load()
        except BaseException:
            self._loaded = False
            raise


@dataclass(frozen=True)
class Part:
    """Marks an option that is itself a part: `expert: Annotated[Factory, Part("ffn")]`.

    The schema takes a name or a mapping; the part that holds it receives a factory, to be called
    with what that kind is supplied with.
    """

    kind: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda node: registries[self.kind].parse(node),
            serialization=core_schema.plain_serializer_function_ser_schema(_dump, info_arg=True),
        )


def _dump(options: Options, info: SerializationInfo) -> dict[str, Any]:
    return options.model_dump(mode=info.mode, exclude_defaults=info.exclude_defaults)


def defaults(kind: str, name: str) -> dict[str, Any]:
    """The options of a part as a config would write them: its name, each default, and `???` for an option
    that must be given."""
    fields = registries[kind][name].options.model_fields
    given = {f: "???" if info.is_required() else info.get_default() for f, info in fields.items()}
    written: dict[str, Any] = to_jsonable_python({**given, "name": name})
    return written


Factory = Callable[..., Any]


def use(name: str, **options: Any) -> Any:
    """The default of an option that is a part."""
    return {"name": name, **options}


class Unsaid(dict[str, Any]):
    """As `use`, where the part is what there was before the option. It is equal to the options that it names,
    so that an identity, which leaves defaults out, does not change."""

    def __init__(self, name: str):
        super().__init__(name=name)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Options):
            return bool(other == registries[other.kind].parse(dict(self)))
        return super().__eq__(other)

    __hash__ = None


def load_parts(places: list[str]) -> list[ModuleType]:
    """Import a user's own parts: module names, or paths of Python files. Raises ImportError, whatever it is
    that their code raises."""
    modules = []
    for place in places:
        try:
            modules.append(_load(place))
        except Exception as error:
            raise ImportError(f"{place}: {type(error).__name__}: {error}{_where(error)}") from error
    return modules


def _load(place: str) -> ModuleType:
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path = Path(place).resolve()
    name = f"ablate_parts_{abs(hash(str(path))):x}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise ImportError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _where(error: Exception) -> str:
    """The line of somebody else's code that raised it, if any did."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if frame.filename != __file__ and "importlib" not in frame.filename]
    return f" ({theirs[0].filename}, line {theirs[0].lineno})" if theirs else ""


def _schema(kind: str, name: str, make: Callable[..., Any]) -> type[Options]:
    fields: dict[str, Any] = {}
    for init in _signatures(make):
        hints = get_type_hints(init, include_extras=True)
        for p in inspect.signature(init).parameters.values():
            if p.kind is p.KEYWORD_ONLY:
                if p.name not in hints:
                    raise ValueError(f"{kind} {name!r}: option {p.name!r} has no annotation")
                if p.name in OURS:
                    raise ValueError(
                        f"{kind} {name!r}: no option can be called {p.name!r}; give it another name"
                    )
                fields.setdefault(p.name, (hints[p.name], ... if p.default is p.empty else p.default))
    options = create_model(f"{name}_options", __base__=Options, **fields)
    options.kind = kind
    return options


def _signatures(make: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """The part's own, and those of the parts that it extends as long as `**options` are handed on to them."""
    if not inspect.isclass(make):
        yield make
        return
    for base in inspect.getmro(make):
        init = vars(base).get("__init__")
        if init is None:
            continue
        yield init
        if all(p.kind is not p.VAR_KEYWORD for p in inspect.signature(init).parameters.values()):
            return


def _factory(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _factory(each) for name, each in value.items()}
    return partial(registries[value.kind].build, value) if isinstance(value, Options) else value


# The kinds of parts, and where each lives.
norm = Registry("norm", "ablate.parts.norm")
activation = Registry("activation", "ablate.parts.activation")
ffn = Registry("ffn", "ablate.parts.ffn")
position = Registry("position", "ablate.parts.position")
scaling = Registry("scaling", "ablate.parts.position.scaling")
attention = Registry("attention", "ablate.parts.attention")
kernel = Registry("kernel", "ablate.parts.kernel")
placement = Registry("placement", "ablate.model.residual")
topology = Registry("topology", "ablate.model.layer")
stream = Registry("stream", "ablate.parts.stream")
future = Registry("future", "ablate.model.future")
lookup = Registry("lookup", "ablate.parts.lookup")
init = Registry("init", "ablate.model.init")
source = Registry("source", "ablate.data.source")
tokenizer = Registry("tokenizer", "ablate.data.tokenizer")
optimizer = Registry("optimizer", "ablate.train.optim")
schedule = Registry("schedule", "ablate.train.schedule")
measure = Registry("measure", "ablate.measure")
