"""The Faust agents: intake and fan-out. Wiring only; the rules are the domain's, the lanes the engine's."""

#: The worker's roles, in the order of the flow.
ROLES = ("intake", "fanout")
