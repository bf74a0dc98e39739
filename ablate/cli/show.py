"""What a person sees of a plan and of a finished run, as tables of the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ablate.amounts import amount, duration
from ablate.cli.estimate import Plan
from ablate.record import RunRecord
from ablate.spec import LayerSpec, RunSpec
from ablate.study.design.match import Matched
from ablate.study.judge.compare import Comparison


def table(title: str, rows: list[tuple[str, str]]) -> Table:
    grid = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, Text(value))  # Text: no markup from a configuration is obeyed
    return grid


def show_plan(console: Console, plan: Plan, run_id: str, status: str) -> None:
    spec, costs = plan.spec, plan.costs
    model = spec.model
    console.print(table(f"Run {run_id} ({status})", [*design(spec), ("kernel", plan.kernel)]))
    console.print()
    rows = [
        ("parameters", f"{amount(costs.parameters)} ({amount(costs.non_embedding)} without embeddings)"),
        ("active for a token", f"{amount(costs.active)} ({amount(costs.active_non_embedding)})"),
        ("training", f"{amount(costs.training_flops, 'FLOP')} per token"),
        ("decoding", f"{amount(costs.decoding_flops, 'FLOP')} per token at context {model.context}"),
        ("KV cache", f"{amount(costs.kv_bytes, 'B')} per token, {amount(costs.cache_bytes, 'B')} a full row"),
        ("memory", f"about {amount(plan.memory_bytes, 'B')}"),
        ("time", f"about {duration(plan.seconds)} at half of this machine's matrix-product rate"),
    ]
    console.print(table("Costs", rows))


def design(spec: RunSpec) -> list[tuple[str, str]]:
    """What a run is, in a few lines."""
    model = spec.model
    layers = model.distinct_layers()
    lines = [
        ("shape", f"width {model.width}, depth {model.depth}, heads {model.heads}, context {model.context}"),
        ("vocabulary", str(model.vocab)),
    ]
    for n, layer in enumerate(layers):
        lines.append((f"layer {'abcdefgh'[n % 8]}" if len(layers) > 1 else "layer", parts(layer)))
    if model.pattern:
        lines.append(("pattern", " ".join(model.pattern)))
    budget = f"{amount(spec.budget.tokens)} tokens, {spec.steps} steps of {amount(spec.budget.batch_tokens)}"
    return [
        *lines,
        ("data", f"{spec.data.source.name}, {spec.data.tokenizer.name}, documents {spec.data.documents}"),
        ("training", f"{budget}; {spec.optim.name}, {spec.schedule.name}, {spec.precision}"),
        ("seed", str(spec.seed.init)),
    ]


def parts(layer: LayerSpec) -> str:
    """`rmsnorm pre serial | rope | softmax window=64 | glu`: the options that are not at their default."""

    def one(options) -> str:
        chosen = options.model_dump(exclude_defaults=True)
        del chosen["name"]
        said = [
            f"{k}={v['name'] if isinstance(v, dict) else v}"
            for k, v in chosen.items()
            if not (isinstance(v, dict) and v["name"] == "none")
        ]
        return " ".join([options.name, *said])

    frame = [one(layer.norm), one(layer.placement), one(layer.topology)]
    return " | ".join([" ".join(frame), one(layer.position), one(layer.attention), one(layer.ffn)])


def show_record(console: Console, record: RunRecord) -> None:
    """The outcome; what was measured on held-out text is not shown."""
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
    rows.append(("held-out", f"looks: {record.looks}" if record.looks else "sealed; scoring looks at it"))
    console.print(table(f"Run {record.id}", rows))


def turned(matched: Matched) -> str:
    knob = "as configured" if matched.after is None else f"{matched.by}={matched.after}"
    return f"{knob} ({matched.residual:+.2%})"


def print_verdicts(console: Console, comparison: Comparison) -> None:
    refused = [f"{arm}: refused before training, so in no comparison" for arm in comparison.refused]
    for warning in (*comparison.warnings, *refused):
        console.print(Text(f"! {warning}", style="yellow"))
    table = Table(title=f"{comparison.metric} against {comparison.baseline}", title_justify="left")
    for column in ("arm", "mean", "difference", "interval", "seeds", "verdict"):
        table.add_column(column, overflow="fold")
    for verdict in comparison.verdicts:
        apart = "" if verdict.difference is None else f"{verdict.difference:+.4f}"
        interval = "" if verdict.low is None else f"[{verdict.low:+.4f}, {verdict.high:+.4f}]"
        mean = "" if verdict.mean is None else f"{verdict.mean:.4f}"
        cells = [verdict.arm, mean, apart, interval, str(verdict.n), f"{verdict.word}: {verdict.reason}"]
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)


def print_outlook(console: Console, said: dict[str, Any]) -> None:
    """The tables of `plan=true`."""
    console.print(Text(said["question"], style="bold"))
    console.print(Text(f"every arm: {' '.join(said['base'])}"))
    console.print(Text(f"metric {said['metric']}, margin {said['margin']}, seeds {said['seeds']}"))
    several = len(said["corpora"]) > 1
    arms = Table(title="Arms", title_justify="left")
    for column in ("arm", "parameters", "FLOPs/token", "KV B/token", "memory", "kernel", "matched by"):
        arms.add_column(column, overflow="fold")
    for arm in said["arms"]:
        name = f"{arm.corpus}/{arm.name}" if several else arm.name
        changed = " ".join(arm.overrides[len(said["base"]) :])
        console.print(Text(f"  {name}: {changed or 'as it is'}"))
        cells = [
            name,
            amount(arm.facts.parameters["total"]),
            amount(arm.facts.flops_per_token),
            amount(arm.facts.kv_bytes_per_token),
            amount(arm.facts.memory_bytes, "B"),
            arm.facts.kernel,
            "" if arm.matched is None else turned(arm.matched),
        ]
        arms.add_row(*(Text(str(cell)) for cell in cells))
    console.print(arms)
    counts = Table(title="Runs", title_justify="left")
    for column in ("role", "planned", "finished", "missing"):
        counts.add_column(column)
    for role, row in said["runs"].items():
        counts.add_row(role, *(str(row[c]) for c in ("planned", "finished", "missing")))
    console.print(counts)
    if said["hours"] is not None:
        console.print(f"about {duration(3600 * said['hours'])}")
    for power in said["power"]:
        if power["detectable"] is not None:
            effect, noise = f"{power['detectable']:.4f}", f"{power['noise']:.4f}"
            console.print(
                f"{power['seeds']} seeds detect {effect} with power {power['power']:.0%} (noise {noise})"
            )
    for warning in said["warnings"]:
        console.print(Text(f"! {warning}", style="yellow"))
