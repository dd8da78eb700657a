"""The network, on behalf: whom the program may reach, which ports it may bind, and how it sees the machine's."""

from sandlock_notif.handlers.network.posture import Posture, network_filter_rules, posture_of
from sandlock_notif.handlers.network.setup import network_tables, resolve_names
from sandlock_notif.handlers.network.table import NetworkTable

__all__ = ["NetworkTable", "Posture", "network_filter_rules", "network_tables", "posture_of", "resolve_names"]
