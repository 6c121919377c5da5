"""Tables of models, cards and families in, the workflows that the pack ships out. No torch."""
