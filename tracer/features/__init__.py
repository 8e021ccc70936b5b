"""What a feature fires on: cards read from an index, a hub repository or Neuronpedia. No torch."""
