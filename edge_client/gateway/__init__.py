"""A local HTTP service that speaks the OpenAI API: pictures are encoded here, indices leave."""
