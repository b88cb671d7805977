"""``kubectl bubu``: what people ask the operator, answered from what is in the cluster."""
