"""The page of numbers and of health that each part serves to monitoring."""
