"""A trained run on a video of anybody's: what it shows, second by second or box by box."""
