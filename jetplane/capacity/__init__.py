"""When a node or a region is full, by what was released: figures of class D from Prometheus, forecasts with error bars.

For planners, on any machine that reaches Prometheus: needs neither root nor a node, and sees what Prometheus has.
"""

from jetplane.capacity.outlook import DAYS, Forecast, Outlook, outlook

__all__ = ["DAYS", "Forecast", "Outlook", "outlook"]
