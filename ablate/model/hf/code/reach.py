"""What the file of a model needs: definitions, in the order of their modules."""

import ast
import builtins
from collections.abc import Iterable, Iterator

from ablate.model.hf.code.names import global_names
from ablate.model.hf.code.pruned import BEFORE, Pruned, has_known_methods, last, pruned
from ablate.model.hf.code.sources import Definition, Import, Module, Sources
from ablate.model.hf.family import ExportError

WRAPPER = "ablate.model.hf.code.wrapper"
UNKNOWN = ("__name__", "__doc__")  # what every module has


class Reached:
    """The definitions that some others lead to, themselves included, as they are left after pruning."""

    def __init__(self, sources: Sources, roots: Iterable[Definition]):
        self.sources = sources
        self.definitions: dict[Definition, Pruned] = {}
        asked: set[str] = set()
        before = -1
        found = dict.fromkeys(roots)
        while len(found) + len(asked) != before:  # each may call methods of those before
            before = len(found) + len(asked)
            for each in list(found):
                self.definitions[each] = self._pruned(each, asked)
                found |= dict.fromkeys(self._named(each))
                asked |= self.definitions[each].attributes
        for name in {each.module for each in found}:
            self._refuse_loose(sources.module(name))
        self.imports = dict.fromkeys(self._imported())

    def statement(self, each: Definition) -> ast.stmt:
        return self.sources.module(each.module).defined[each.name]

    def modules(self) -> list[Module]:
        """Those that have something that is reached; what a module imports stands before it."""
        ordered: dict[str, None] = {}

        def visit(name: str, above: tuple[str, ...] = ()) -> None:
            if name in ordered or name in above:
                return
            for each in self.sources.imports_of(name):
                visit(each, (*above, name))
            ordered[name] = None

        for each in self.definitions:
            visit(each.module)
        ordered[WRAPPER] = ordered.pop(WRAPPER, None)  # last: nothing needs it
        there = {each.module for each in self.definitions}
        return [self.sources.module(name) for name in ordered if name in there]

    def of_module(self, module: Module) -> Iterator[tuple[ast.stmt, Pruned]]:
        """Its statements that are reached, in their order."""
        mine = {self.statement(e): kept for e, kept in self.definitions.items() if e.module == module.name}
        yield from sorted(mine.items(), key=lambda pair: pair[0].lineno)

    def meaning(self, module: str, name: str) -> Definition | Import | None:
        return self.sources.meaning(module, name)

    def is_alias(self, each: Definition) -> bool:
        return isinstance(self.statement(each), ast.Assign | ast.AnnAssign)

    def _pruned(self, each: Definition, asked: set[str]) -> Pruned:
        statement = self.statement(each)
        if each.module == WRAPPER:  # transformers calls its methods
            return Pruned(statement)
        asked = asked - BEFORE if each.module.startswith("ablate.") else asked
        return pruned(statement, asked, self._known_bases(each.module, statement))

    def _known_bases(self, module: str, statement: ast.stmt) -> set[str]:
        if not isinstance(statement, ast.ClassDef):
            return set()
        known = set()
        for base in statement.bases:
            found = self.meaning(module, last(base)) if isinstance(base, ast.Name) else None
            if isinstance(found, Definition):
                there = self.statement(found)
                own = self._known_bases(found.module, there)
                if isinstance(there, ast.ClassDef) and has_known_methods(there, own):
                    known.add(last(base))
        return known

    def _named(self, each: Definition) -> Iterator[Definition]:
        """What a definition needs. An annotation alone needs no class."""
        for name, noted in self.definitions[each].names:
            found = self.meaning(each.module, name.id)
            if isinstance(found, Definition) and found != each and (not noted or self.is_alias(found)):
                yield found
            elif found is None and not noted:
                self._refuse_unknown(each, name)

    def _imported(self) -> Iterator[Import]:
        for each, kept in self.definitions.items():
            found = (self.meaning(each.module, name.id) for name, _ in kept.names)
            yield from (what for what in found if isinstance(what, Import))

    def _refuse_unknown(self, each: Definition, name: ast.Name) -> None:
        if hasattr(builtins, name.id) or name.id in UNKNOWN:
            return
        raise ExportError(
            f"{self.sources.module(each.module).title}, line {name.lineno}: {name.id} is defined nowhere in "
            "the module, so it cannot be carried into a file of its own"
        )

    def _refuse_loose(self, module: Module) -> None:
        """What a module does beside defining names would be lost. Of ablate's own nothing that is reached."""
        for statement in module.loose:
            names = {name.id for name in global_names(statement)}
            own = {each.name for each in self.definitions if each.module == module.name}
            if not module.name.startswith("ablate.") or names & own:
                shown = ast.unparse(statement).splitlines()[0]
                raise ExportError(
                    f"{module.title}, line {statement.lineno}: `{shown}` is run when the module is imported, "
                    "and an exported file carries definitions alone; put it into a function or a class"
                )
