"""What a person sees of a plan and of a finished run, as tables of the terminal."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ablate.amounts import amount, duration
from ablate.record import RunRecord
from ablate.spec import LayerSpec, RunSpec
from ablate.study.design.match import Matched

if TYPE_CHECKING:
    from ablate.cli.compose import TrainJob
    from ablate.cli.estimate import RunEstimate
    from ablate.study.judge.compare import Comparison


def name_table(title: str, rows: list[tuple[str, str]]) -> Table:
    """A table of names and values, without a frame."""
    grid = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, Text(value))  # Text: no markup from a configuration is obeyed
    return grid


def show_plan(console: Console, todo: "TrainJob", estimate: "RunEstimate", status: str) -> None:
    """Print the design of a run and its costs; those that are counted, exactly."""
    spec, costs, kernel = todo.spec, todo.design.costs, todo.design.kernel
    design = [*description(spec), *text_lines(todo), ("kernel", kernel)]
    console.print(name_table(f"Run {todo.id} ({status})", design))
    console.print()
    rows = [
        ("parameters", exact_amount(costs.parameters)),
        ("without embeddings", exact_amount(costs.non_embedding)),
        ("active per token", exact_amount(costs.active)),
        ("active without embeddings", exact_amount(costs.active_non_embedding)),
        ("training", f"{exact_amount(costs.training_flops, 'FLOP')} per token"),
        (
            "decoding",
            f"{exact_amount(costs.decoding_flops, 'FLOP')} per token at context {spec.model.context}",
        ),
        ("KV cache", f"{exact_amount(costs.kv_bytes, 'B')} per token"),
        ("KV cache of a row", exact_amount(costs.cache_bytes, "B")),
        ("memory", f"about {amount(estimate.memory_bytes, 'B')}"),
        ("time", f"about {duration(estimate.seconds)} at half of this machine's matrix-product rate"),
    ]
    console.print(name_table("Costs", rows))


def text_lines(todo: "TrainJob") -> Iterator[tuple[str, str]]:
    """How often the training text is read; of a mixture each source, with its share of the tokens."""
    from ablate.data.blend import epochs
    from ablate.data.source.mixture import ROWS_IN_BLOCK

    ingredients = todo.prepared.ingredients
    for name, times in epochs(todo.prepared, todo.spec).items():
        share = f"{ingredients[name].rows / ROWS_IN_BLOCK:.2%} of the tokens, " if ingredients else ""
        yield f"text {name}".rstrip(), f"{share}read {times:.2f} times"
    if todo.prepared.sets:
        yield "sets", ", ".join(todo.prepared.sets)


def exact_amount(count: float, unit: str = "") -> str:
    """124439808 -> 124,439,808 (124M); small counts alone."""
    whole = f"{count:,.0f}" + (f" {unit}" if unit else "")
    return whole if count < 1000 else f"{whole} ({amount(count, unit)})"


def description(spec: RunSpec) -> list[tuple[str, str]]:
    """The design of a run, in a few lines."""
    model = spec.model
    layers = model.distinct_layers()
    lines = [
        ("shape", f"width {model.width}, depth {model.depth}, heads {model.heads}, context {model.context}"),
        ("vocabulary", str(model.vocab)),
    ]
    for n, layer in enumerate(layers):
        lines.append((f"layer {'abcdefgh'[n % 8]}" if len(layers) > 1 else "layer", layer_parts(layer)))
    if model.pattern:
        lines.append(("pattern", " ".join(model.pattern)))
    budget = f"{amount(spec.budget.tokens)} tokens, {spec.steps} steps of {amount(spec.budget.batch_tokens)}"
    return [
        *lines,
        ("data", f"{spec.data.source.name}, {spec.data.tokenizer.name}, documents {spec.data.documents}"),
        ("training", f"{budget}; {spec.optim.name}, {spec.schedule.name}, {spec.precision}"),
        ("seed", str(spec.seed.init)),
    ]


def layer_parts(layer: LayerSpec) -> str:
    """`rmsnorm pre serial | rope | softmax window=64 | glu`: the options that are not at their default."""

    def one(options: Any) -> str:
        chosen = options.model_dump(exclude_defaults=True)
        del chosen["name"]
        shown = [
            f"{k}={v['name'] if isinstance(v, dict) else v}"
            for k, v in chosen.items()
            if not (isinstance(v, dict) and v["name"] == "none")
        ]
        return " ".join([options.name, *shown])

    frame = [one(layer.norm), one(layer.placement), one(layer.topology)]
    return " | ".join([" ".join(frame), one(layer.position), one(layer.attention), one(layer.ffn)])


def show_record(console: Console, record: RunRecord) -> None:
    """Print the outcome of a run, without what was measured on held-out text."""
    metrics, rows = (
        record.metrics,
        [("status", record.status + (f": {record.reason}" if record.reason else ""))],
    )
    for name, label in (
        ("validation/loss", "validation loss"),
        ("validation/perplexity", "perplexity"),
        ("validation/bits_per_byte", "bits per byte"),
    ):
        value = metrics.get(name)
        if value is not None:
            rows.append((label, f"{value:.4f}"))
    rows += [(f"validation loss, {name}", f"{loss:.4f}") for name, loss in by_set(metrics)]
    for source, key, label, unit in (
        (record.counts, "parameters", "parameters", ""),
        (record.counts, "training_flops", "FLOPs a token", ""),
        (record.speed, "tokens_per_second", "tokens/s", ""),
        (record.memory, "peak_resident_bytes", "peak memory", "B"),
    ):
        if key in source:
            rows.append((label, amount(source[key], unit)))
    if "seconds" in record.speed:
        rows.append(("time", duration(record.speed["seconds"])))
    rows.append(("kernel", record.kernel))
    rows.append(
        (
            "held-out",
            f"looks: {record.heldout_reads}" if record.heldout_reads else "sealed; scoring looks at it",
        )
    )
    console.print(name_table(f"Run {record.id}", rows))


def by_set(metrics: Mapping[str, float | None]) -> Iterator[tuple[str, float]]:
    """The validation losses of the sets, and their mean."""
    for metric, value in metrics.items():
        kind, *name, number = metric.split("/")
        if (kind, number) == ("validation", "loss") and name and value is not None:
            yield "/".join(name), value


def matching_label(matched: Matched) -> str:
    """The knob that matched an arm, its value, and how far the arm is still off."""
    knob = "as configured" if matched.after is None else f"{matched.by}={matched.after}"
    return f"{knob} ({matched.residual:+.2%})"


def print_verdicts(console: Console, comparison: "Comparison") -> None:
    """Print a comparison as a table, its warnings first."""
    refused = [f"{arm}: refused before training, so in no comparison" for arm in comparison.refused]
    for warning in (*comparison.warnings, *refused):
        console.print(Text(f"! {warning}", style="yellow"))
    table = Table(title=f"{comparison.metric} against {comparison.baseline}", title_justify="left")
    for column in ("arm", "mean", "difference", "interval", "seeds", "verdict"):
        table.add_column(column, overflow="fold")
    for verdict in comparison.verdicts:
        difference = "" if verdict.difference is None else f"{verdict.difference:+.4f}"
        interval = "" if verdict.low is None else f"[{verdict.low:+.4f}, {verdict.high:+.4f}]"
        mean = "" if verdict.mean is None else f"{verdict.mean:.4f}"
        cells = [verdict.arm, mean, difference, interval, str(verdict.n), f"{verdict.word}: {verdict.reason}"]
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)


def print_outlook(console: Console, outlook: dict[str, Any]) -> None:
    """Print the tables of sweep.py's `plan=true`."""
    console.print(Text(outlook["question"], style="bold"))
    console.print(Text(f"every arm: {' '.join(outlook['base'])}"))
    console.print(Text(f"metric {outlook['metric']}, margin {outlook['margin']}, seeds {outlook['seeds']}"))
    several = len(outlook["corpora"]) > 1
    arms = Table(title="Arms", title_justify="left")
    for column in ("arm", "parameters", "FLOPs/token", "KV B/token", "memory", "kernel", "matched by"):
        arms.add_column(column, overflow="fold")
    for arm in outlook["arms"]:
        name = f"{arm.corpus}/{arm.name}" if several else arm.name
        changed = " ".join(arm.overrides[len(outlook["base"]) :])
        console.print(Text(f"  {name}: {changed or 'as it is'}"))
        cells = [
            name,
            amount(arm.facts.parameters["total"]),
            amount(arm.facts.flops_per_token),
            amount(arm.facts.kv_bytes_per_token),
            amount(arm.facts.memory_bytes, "B"),
            arm.facts.kernel,
            "" if arm.matched is None else matching_label(arm.matched),
        ]
        arms.add_row(*(Text(str(cell)) for cell in cells))
    console.print(arms)
    counts = Table(title="Runs", title_justify="left")
    for column in ("role", "planned", "finished", "missing"):
        counts.add_column(column)
    for role, row in outlook["runs"].items():
        counts.add_row(role, *(str(row[c]) for c in ("planned", "finished", "missing")))
    console.print(counts)
    for sentence in outlook["protocol"]:
        console.print(Text(sentence))
    if outlook["hours"] is not None:
        console.print(f"about {duration(3600 * outlook['hours'])}")
    for power in outlook["power"]:
        if power["detectable"] is not None:
            effect, noise = f"{power['detectable']:.4f}", f"{power['noise']:.4f}"
            console.print(
                f"{power['seeds']} seeds detect {effect} with power {power['power']:.0%} (noise {noise})"
            )
    for warning in outlook["warnings"]:
        console.print(Text(f"! {warning}", style="yellow"))
