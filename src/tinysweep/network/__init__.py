"""The networks, and what they cost: the gate that no model over budget passes."""
