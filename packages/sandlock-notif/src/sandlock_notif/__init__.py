"""The asyncio supervisor of seccomp user notifications."""

from sandlock_notif.action import (
    CONTINUE,
    Action,
    Answered,
    Continue,
    Delegate,
    Errno,
    Hold,
    InjectFd,
    Kill,
    Value,
)
from sandlock_notif.dispatch import Dispatch, HandlerTable, Services, Trap, filter_rules
from sandlock_notif.errors import NotifError, Refusal, VanishedError
from sandlock_notif.events import Event
from sandlock_notif.listener import Listener
from sandlock_notif.processes import Process, Processes
from sandlock_notif.request import Request
from sandlock_notif.supervisor import Supervisor

__all__ = [
    "CONTINUE",
    "Action",
    "Answered",
    "Continue",
    "Delegate",
    "Dispatch",
    "Errno",
    "Event",
    "HandlerTable",
    "Hold",
    "InjectFd",
    "Kill",
    "Listener",
    "NotifError",
    "Process",
    "Processes",
    "Refusal",
    "Request",
    "Services",
    "Supervisor",
    "Trap",
    "Value",
    "VanishedError",
    "filter_rules",
]
