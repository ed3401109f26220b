"""From an event to what an integration must be told: rules, dispatch records, the retry schedule. Pure."""
