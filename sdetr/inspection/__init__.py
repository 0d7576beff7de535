"""What attention costs, and what it looks at."""
