"""What a study's pictures and answers say: screening, rates, agreement, models, planned comparisons, the report."""
