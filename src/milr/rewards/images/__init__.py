"""Images in the form that rewards and vision-language models take."""
