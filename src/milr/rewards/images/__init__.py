"""Images as rewards and vision-language models take them."""
