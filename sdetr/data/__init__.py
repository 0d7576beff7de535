"""Images and annotations: reading, drawing, transforming, batching."""
