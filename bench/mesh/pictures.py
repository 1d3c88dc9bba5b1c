"""The pictures: latency as in the article's figure, its distribution, processor time of a request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.mesh import tables
from bench.mesh.stages import VARIANTS
from bench.processes import UnavailableError
from bench.report import Report, number

COLOURS = {"bare": "#7f8fa6", "sidecars": "#c8553d", "ax": "#2a7f62"}
DRAWN = ("unix", "veth", "tcp", "http-log", "vxlan-log", "vxlan-mtls", "vxlan-check", "ax-hosts", "ax-host", "ax-envoy")
DPI = 80


def draw(result: Report, place: Path) -> list[Path]:
    """latency.png, distribution.png, cpu.png, but those for which there is nothing. Raises UnavailableError."""
    try:
        import matplotlib as mpl

        mpl.use("agg")
        from matplotlib import pyplot as plt
    except ImportError:
        raise UnavailableError("matplotlib is not installed: no pictures") from None
    place.mkdir(parents=True, exist_ok=True)
    made = []
    for name, drawing in (("latency", _latency), ("distribution", _distribution), ("cpu", _cpu)):
        figure = drawing(plt, result)
        if figure is not None:
            figure.savefig(place / f"{name}.png", dpi=DPI, metadata={"Software": None})
            plt.close(figure)
            made.append(place / f"{name}.png")
    return made


def _latency(pyplot: Any, result: Report) -> Any:
    """Bars of p50, with a line to p99."""
    return _bars(pyplot, result, {"grpc": "gRPC, closed loop", "grpc-rate": "gRPC, fixed rate"}, "p50", "p99", "ms")


def _cpu(pyplot: Any, result: Report) -> Any:
    wanted = {"grpc": "gRPC, closed loop", "memcached": "memcached", "short": "connect, request, close"}
    return _bars(pyplot, result, wanted, "cpu", "", "us of processor time for a request")


def _bars(pyplot: Any, result: Report, works: dict[str, str], metric: str, beyond: str, unit: str) -> Any:
    figures = tables.by_name(result.figures)
    shown = {work: [one for one in VARIANTS if f"{work}.{metric}.{one.name}" in figures] for work in works}
    shown = {work: variants for work, variants in shown.items() if variants}
    if not shown:
        return None
    height = 1.2 + 0.3 * max(map(len, shown.values()))
    figure, axes = pyplot.subplots(
        1, len(shown), figsize=(6.2 * len(shown), height), squeeze=False, layout="constrained"
    )
    for axis, (work, variants) in zip(axes[0], shown.items(), strict=True):
        values = [figures[f"{work}.{metric}.{one.name}"].median for one in variants]
        axis.barh([one.title for one in variants], values, color=[COLOURS[one.group] for one in variants])
        ends = values
        if beyond:
            ends = [figures[f"{work}.{beyond}.{one.name}"].median for one in variants]
            axis.hlines(range(len(variants)), values, ends, color="black", linewidth=0.8)
        for row, (value, end) in enumerate(zip(values, ends, strict=True)):
            axis.annotate(number(value), (end, row), (3, 0), textcoords="offset points", va="center", fontsize=8)
        axis.invert_yaxis()
        axis.set_title(f"{works[work]}: p50, line to {beyond}" if beyond else works[work], fontsize=10)
        axis.set_xlabel(unit, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _distribution(pyplot: Any, result: Report) -> Any:
    """Latency by quantile, as far as the tail."""
    from matplotlib.ticker import LogLocator

    works = [work for work in ("grpc", "grpc-rate") if any(name.startswith(f"{work}.") for name in result.curves)]
    if not works:
        return None
    figure, axes = pyplot.subplots(1, len(works), figsize=(6.2 * len(works), 4.6), squeeze=False, layout="constrained")
    for axis, work in zip(axes[0], works, strict=True):
        styles = dict.fromkeys(COLOURS, 0)
        for one in VARIANTS:
            curve = result.curves.get(f"{work}.{one.name}", ())
            if one.name in DRAWN and curve:
                style = ("-", "--", ":", "-.", (0, (1, 3)))[styles[one.group] % 5]
                styles[one.group] += 1
                quantiles, latencies = zip(*((q, ms) for q, ms in curve if q >= 0.01), strict=True)
                axis.plot(
                    [1 / (1 - q) for q in quantiles],
                    latencies,
                    linestyle=style,
                    color=COLOURS[one.group],
                    label=one.title,
                )
        axis.set_xscale("log")
        axis.set_yscale("log", subs=())
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        marks = {1: "0", 2: "50", 10: "90", 100: "99", 1000: "99.9"}
        axis.minorticks_off()
        axis.set_xticks(list(marks), [f"{text} %" for text in marks.values()])
        axis.set_xlabel("of the calls are faster", fontsize=9)
        axis.set_ylabel("ms", fontsize=9)
        axis.set_title(f"gRPC, {'closed loop' if work == 'grpc' else 'fixed rate'}", fontsize=10)
        axis.grid(visible=True, alpha=0.3)
        axis.tick_params(labelsize=8)
    handles = {label: line for axis in axes[0] for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, fontsize=8, ncols=4, loc="outside lower center")
    return figure
