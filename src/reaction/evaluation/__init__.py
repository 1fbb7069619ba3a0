"""From stored scores to metrics and intervals. Knows no network."""
