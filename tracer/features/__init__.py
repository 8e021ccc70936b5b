"""Feature cards (what a feature fires on) from an index, the hub or Neuronpedia. No torch."""
