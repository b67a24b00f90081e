"""scripts/bench in parts: what is measured (rows), its plain models, both sides' loops, the protocol, the tables."""
