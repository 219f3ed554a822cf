# One distribution, three images: each installs its own extra and nothing of the others'.
#
#     docker build --target plugin -t farebox-plugin .
#     docker build --target portal -t farebox-portal .

FROM python:3.13-slim AS build
RUN pip install --no-cache-dir "uv>=0.9"
ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
WORKDIR /farebox
COPY pyproject.toml uv.lock README.md LICENSE ./
COPY proto proto
COPY plugin plugin
COPY portal portal
COPY envoy envoy

FROM build AS plugin-build
RUN uv sync --locked --no-dev --no-editable --extra plugin

FROM build AS portal-build
RUN uv sync --locked --no-dev --no-editable --extra portal

# The same user in every image, and in Envoy's container: the plugin's sockets are for it alone.
FROM python:3.13-slim AS base
RUN groupadd --gid 10001 farebox && useradd --uid 10001 --gid 10001 --no-create-home farebox \
 && install -d -o farebox -g farebox -m 0700 /var/lib/farebox /run/farebox
ENV PATH=/farebox/.venv/bin:$PATH PYTHONUNBUFFERED=1 FAREBOX_STATE_DIR=/var/lib/farebox
WORKDIR /var/lib/farebox
USER farebox

FROM base AS plugin
COPY --from=plugin-build /farebox/.venv /farebox/.venv
ENV FAREBOX_SPOOL_DIR=/var/lib/farebox/spool
CMD ["python", "-m", "farebox_plugin", "--listen", "unix:/run/farebox/w%d.sock", "--workers", "2"]

FROM base AS portal
COPY --from=portal-build /farebox/.venv /farebox/.venv
EXPOSE 8001
CMD ["farebox", "portal", "--host", "0.0.0.0", "--port", "8001"]

FROM base AS upstream
COPY --from=portal-build /farebox/.venv /farebox/.venv
EXPOSE 8002
CMD ["python", "-m", "farebox_portal.demo.upstream", "--host", "0.0.0.0", "--port", "8002"]
