# syntax=docker/dockerfile:1
# A training image with `supervisor` as its entrypoint. Build: docker build -t my-training .
# Run one host: docker run --rm --user "$(id -u)" --stop-timeout 120 -v "$PWD/ml:/opt/ml" my-training
# GPUs: start from an image that has the CUDA libraries, or install tensorflow[and-cuda] below.
FROM python:3.12-slim

ENV PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

# TensorFlow first and by itself: it is the large layer, and our own code changes more often. The
# constraints are the versions that the tests ran with; the gate, .ci/run, writes them.
WORKDIR /src
COPY .ci/constraints.txt .ci/
RUN pip install --constraint .ci/constraints.txt "tensorflow>=2.16,<3"

# Then what we depend on, which changes with pyproject.toml only.
COPY pyproject.toml README.md ./
COPY supervisor/__init__.py supervisor/LICENSE supervisor/
RUN pip install --constraint .ci/constraints.txt .

# MPI jobs need this: --build-arg MPI=yes. The host keys that Debian makes would be the same in every
# container; ours are made for each run. Port 22 is not for users to open.
ARG MPI=no
ENV SUPERVISOR_MPI_SSH_PORT=2022
RUN if [ "$MPI" != no ]; then \
        apt-get update \
        && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
            openmpi-bin openssh-client openssh-server \
        && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_*; \
    fi

# Then the code itself. Compiled once here, not at every start.
COPY supervisor supervisor
RUN pip install --no-deps --force-reinstall . \
    && python -m compileall -q "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/supervisor" \
    && rm -rf /src

# It runs as this user, and any other may run it (docker run --user, runAsUser, OpenShift's own): both
# directories take what anybody writes, as /tmp does. The second one is where pip puts what a job's
# requirements.txt asks for, for users that may not write beside the image's packages.
RUN useradd --create-home --uid 1000 trainer \
    && mkdir -p /opt/ml /opt/user-packages \
    && chmod 1777 /opt/ml /opt/user-packages
ENV PYTHONUSERBASE=/opt/user-packages \
    PATH="${PATH}:/opt/user-packages/bin"
WORKDIR /opt/ml

# A number: Kubernetes takes no name for a user who is not root (runAsNonRoot). SageMaker mounts
# /opt/ml as root's own: --build-arg RUN_AS=0.
ARG RUN_AS=1000
USER ${RUN_AS}

# 2022 MPI's sshd, 2222 training, 2223 parameter server, 2224 status and coordination, 8890
# MultiWorkerMirrored.
EXPOSE 2022 2222 2223 2224 8890

# Live while the event loop turns, through draining too; a short job may end before the first look.
# Not by urllib, which would ask a proxy; and a Service of Kubernetes may have set the variable.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-I", "-c", "import http.client, os, sys; port = os.environ.get('SUPERVISOR_STATUS_PORT', ''); asked = http.client.HTTPConnection('127.0.0.1', int(port) if port.isdigit() else 2224, timeout=4); asked.request('GET', '/livez'); sys.exit(asked.getresponse().status != 200)"]

# Asks for the stop in order. How long is waited then no image can say, and no label: Docker's 10 s
# are few to save a checkpoint in. `docker run --stop-timeout` or Compose's stop_grace_period say more,
# and SUPERVISOR_STOP_LIMIT_S, 120 by default, has to be the same number.
STOPSIGNAL SIGTERM

# exec form: the supervisor is PID 1 and gets the platform's signals itself.
ENTRYPOINT ["supervisor"]
CMD ["train"]
