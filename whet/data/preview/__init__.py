"""Show what a config makes of its data: rows as tokens, figures, findings; on a terminal and as one HTML file."""
