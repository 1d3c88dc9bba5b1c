"""The network analyzer: what was decided, who serves since when, what apps need. Nothing comes from the data path.

`flowlog` keeps what the switch tells of its decisions, `liveness` when services came alive, `processes` and `meter`
what apps use of the host, and `exposition` puts it all into Prometheus' words.
"""

from __future__ import annotations

from appswitch.control.analyzer.flowlog import FlowLog
from appswitch.control.analyzer.liveness import Liveness
from appswitch.control.analyzer.meter import Meter
from appswitch.control.link import SwitchLink


class Analyzer:
    """Its parts, fed by the link to the switch."""

    def __init__(self, link: SwitchLink) -> None:
        self.flows = FlowLog(link.apps)
        self.liveness = Liveness()
        self.meter = Meter(link)
        link.on_flow = self.flows.take
        link.on_event.append(self.liveness.take)
