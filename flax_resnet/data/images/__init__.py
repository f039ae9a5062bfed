"""Image files: found in folders and lists, decoded, resized and cropped."""
