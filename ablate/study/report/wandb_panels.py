"""What a study shows at Weights & Biases: the panels of its Report and of its Workspace."""

from typing import TYPE_CHECKING, Any

from ablate.study.results import Manifest, Results

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import PanelGrid
    from wandb_workspaces.workspaces import Workspace

TITLE = 128  # characters that W&B takes


def title(manifest: Manifest) -> str:
    """The name of the Report and of the Workspace."""
    return f"Study: {manifest.name}"[:TITLE]


def workspace(results: Results, project: str, entity: str) -> "Workspace":
    """The Workspace, not saved yet: the study's test runs, grouped by arm."""
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr
    from wandb_workspaces import workspaces as ws

    by: list[Any] = [expr.Config("corpus")] * several_places(results.manifest) + [expr.Config("arm")]
    speed = wr.ScatterPlot(
        title="Speed against loss",
        x=wr.SummaryMetric("speed/tokens_per_second"),
        y=wr.SummaryMetric("validation/loss"),
    )
    diverged = wr.BarPlot(
        title="Share of runs that diverged",
        metrics=[wr.SummaryMetric("diverged")],
        groupby=wr.Config("arm"),
        groupby_aggfunc="mean",
    )
    load = wr.LinePlot(
        title="The busiest expert, as a multiple of an even share",
        x="step",
        metric_regex="train/expert_load/.*",
        groupby=wr.Config("arm"),
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
    )
    sets = wr.LinePlot(
        title="Validation loss of each set",
        x="tokens",
        metric_regex="validation/.+/loss",
        groupby=wr.Config("arm"),
        groupby_aggfunc="mean",
    )
    return ws.Workspace(
        entity=entity,
        project=project,
        name=title(results.manifest),
        sections=[
            ws.Section(name="Loss", is_open=True, panels=losses()),
            ws.Section(
                name="Learning rate", is_open=True, panels=[band("Learning rate", "step", "train/lr")]
            ),
            ws.Section(
                name="Stability",
                is_open=True,
                panels=[band("Gradient norm", "step", "train/grad_norm", log=True), diverged],
            ),
            ws.Section(
                name="Speed",
                is_open=True,
                panels=[speed, band("Tokens per second", "tokens", "speed/tokens_per_second")],
            ),
            ws.Section(name="Validation sets (where there are some)", panels=[sets]),
            ws.Section(name="Experts (mixtures only)", panels=[load]),
        ],
        settings=ws.WorkspaceSettings(x_axis="step", max_runs=max(10, len(results.runs))),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(expr.Metric("Group") == results.manifest.name, expr.Config("role") == "test"),
            groupby=by,
        ),
    )


def plots(results: Results) -> "PanelGrid":
    """The same runs in the Report. The run set names no project, which means the Report's own."""
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    runs = wr.Runset(
        name=results.manifest.name,
        filters=expr.And(expr.Metric("Group") == results.manifest.name, expr.Config("role") == "test"),
        groupby=["config.corpus", "config.arm"] if several_places(results.manifest) else ["config.arm"],
    )
    panels = losses()
    for n, panel in enumerate(panels):
        panel.layout = wr.Layout(x=12 * (n % 2), y=8 * (n // 2), w=12, h=8)
    return wr.PanelGrid(runsets=[runs], panels=panels)


def losses() -> list[Any]:
    """Panels of training and validation loss, against tokens and against FLOPs."""
    return [
        band("Training loss against tokens", "tokens", "train/loss"),
        band("Validation loss against tokens", "tokens", "validation/loss"),
        band("Training loss against FLOPs", "flops", "train/loss"),
        band("Validation loss against FLOPs", "flops", "validation/loss"),
    ]


def band(heading: str, x: str, y: str, log: bool = False) -> Any:
    """The mean over the seeds of an arm, and their standard deviation around it."""
    import wandb_workspaces.reports.v2 as wr

    return wr.LinePlot(
        title=heading,
        x=x,
        y=[y],
        log_y=log or None,
        groupby=wr.Config("arm"),
        groupby_aggfunc="mean",
        groupby_rangefunc="stddev",
    )


def several_places(manifest: Manifest) -> bool:
    """Whether the study has more than one corpus or size."""
    return len(manifest.study.places) > 1
