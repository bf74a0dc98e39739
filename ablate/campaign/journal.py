"""The journal of a campaign: what was tried, what was answered, and by which rules; one line of JSON each.

    experiments/NAME/journal.jsonl

It is only added to. Each line ends with a hash over itself and the line before. An error rate over a whole
campaign holds only if no try is left out, so a line that was edited or taken out in the middle is found.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from ablate.campaign.rules import RULES_FILE, Campaign, CampaignError, merged
from ablate.spec import Strict, digest

JOURNAL = "journal.jsonl"
Word = Literal["begun", "keep", "discard", "undecided"]
Values = dict[int, float]  # the metric by seed


class TryEntry(Strict):
    """A try as it stands. A later line with the same number replaces it: `begun`, then an answer, and another
    one where an undecided try was given more runs."""

    number: int  # from 1
    baseline: int  # the number of keeps before it
    identity: str  # hash of the arm's specification and of the sources behind it
    change: tuple[str, ...]
    word: Word
    reason: str = ""
    values: Values = Field(default_factory=dict)
    difference: float | None = None  # mean of arm - baseline over the pairs, in the unit of the metric
    log_e: float = 0.0
    log_threshold: float
    more: int | None = None  # pairs that would settle it, if the difference stays as it is
    costs: dict[str, float] = Field(default_factory=dict)  # times the first baseline
    date: str = ""


class BaselineEntry(Strict):
    """What a baseline is, and its runs so far. The campaign's own has the number 0."""

    baseline: int
    overrides: tuple[str, ...]
    identity: str
    values: Values = Field(default_factory=dict)
    facts: dict[str, float] = Field(default_factory=dict)  # costs of the first one
    date: str = ""


@dataclass
class CampaignState:
    """What a journal amounts to."""

    rules: Campaign
    tries: dict[int, TryEntry] = field(default_factory=dict)
    baselines: list[BaselineEntry] = field(default_factory=list)

    @property
    def keeps(self) -> int:
        return sum(1 for each in self.tries.values() if each.word == "keep")

    @property
    def baseline(self) -> BaselineEntry:
        return self.baselines[-1]

    @property
    def left(self) -> int:
        """The tries that have a share of alpha still."""
        return self.rules.tries - len(self.tries)

    @property
    def runs(self) -> int:
        """Runs that ended with a value, those of baselines among them."""
        of_tries = sum(len(each.values) for each in self.tries.values())
        return of_tries + sum(len(each.values) for each in self.baselines)

    def known(self, identity: str) -> TryEntry | None:
        """The try of this very change against the baseline of now."""
        here = self.baseline.baseline
        return next((t for t in self.tries.values() if (t.identity, t.baseline) == (identity, here)), None)

    def beside(self, baseline: int, but: int | None = None) -> list[TryEntry]:
        """The tries that were run beside a baseline, without the one of this number."""
        return [each for each in self.tries.values() if each.baseline == baseline and each.number != but]

    def take(self, entry: TryEntry | BaselineEntry) -> None:
        """Take in one more line. What is kept is the baseline from then on, not run yet."""
        if isinstance(entry, TryEntry):
            self.tries[entry.number] = entry
            if entry.word == "keep":
                overrides = merged(self.baselines[entry.baseline].overrides, entry.change)
                self.take(
                    BaselineEntry(baseline=entry.baseline + 1, overrides=overrides, identity=entry.identity)
                )
        elif entry.baseline < len(self.baselines):
            self.baselines[entry.baseline] = entry
        else:
            self.baselines.append(entry)


class Journal:
    """The journal in a folder, read and added to. Raises CampaignError for one that was edited."""

    def __init__(self, folder: Path):
        self.file = folder / JOURNAL
        self.last = ""  # the hash of the last line

    def read(self, rules: Campaign | None = None) -> CampaignState | None:
        """The state; None where nothing was tried yet. With `rules`, these must be the ones it began with."""
        if not self.file.is_file():
            return None
        state: CampaignState | None = None
        for n, line in enumerate(self.file.read_text().splitlines(), 1):
            content = self._checked(line, n)
            try:
                if "rules" in content:
                    state = CampaignState(Campaign.model_validate(content["rules"]))
                elif state is None:
                    raise self._damaged(n, "it does not begin with the rules")
                else:
                    kind = TryEntry if "number" in content else BaselineEntry
                    state.take(kind.model_validate(content))
            except ValidationError as error:
                raise self._damaged(n, error.errors()[0]["msg"]) from None
        if rules is not None and state is not None:
            self._refuse_new_rules(state.rules, rules)
        return state

    def _checked(self, line: str, n: int) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(line)
            hash = content.pop("hash")
        except (ValueError, KeyError, AttributeError):
            raise self._damaged(n, "it is no line of a journal") from None
        if hash != digest([self.last, content]):
            raise self._damaged(n, "its hash does not follow from it and the line before")
        self.last = hash
        return content

    def _damaged(self, n: int, reason: str) -> CampaignError:
        return CampaignError([f"{self.file}: line {n}: {reason}; restore the file"])

    def _refuse_new_rules(self, begun: Campaign, now: Campaign) -> None:
        before, after = begun.plain(), now.plain()
        moved = [key for key in before if before[key] != after[key] and key not in ("notes", "question")]
        if moved:
            raise CampaignError(
                [
                    f"{self.file.parent / RULES_FILE}: {key}: was {before[key]!r} at the first try and is "
                    f"{after[key]!r}; put it back, or begin a campaign in another folder"
                    for key in moved
                ]
            )

    def begin(self, rules: Campaign) -> CampaignState:
        """Write the first line."""
        self._add({"rules": rules.plain()})
        return CampaignState(rules)

    def add(self, state: CampaignState, entry: TryEntry | BaselineEntry) -> None:
        """Write a line, and take it into the state."""
        entry = entry.model_copy(update={"date": datetime.now(UTC).isoformat(timespec="seconds")})
        self._add(entry.model_dump(mode="json"))
        state.take(entry)

    def _add(self, content: Mapping[str, Any]) -> None:
        plain = json.loads(json.dumps(content))
        hash = digest([self.last, plain])
        with self.file.open("a") as file:
            file.write(json.dumps({**plain, "hash": hash}, allow_nan=False) + "\n")
        self.last = hash


def overrides_of(state: CampaignState, change: Sequence[str]) -> tuple[str, ...]:
    """What a person would type to train.py for a change of the baseline of now."""
    return merged(state.baseline.overrides, change)
