"""The grammars of policy values, one file per domain; each is loaded when a field that needs it is set."""
