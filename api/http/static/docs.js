// Starts Swagger UI on /docs; a file of its own because the page allows no script inside it.
SwaggerUIBundle({ url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null });
