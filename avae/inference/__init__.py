"""log p(x) and p(alpha | x): proposals, importance weights, bounds, posterior."""
