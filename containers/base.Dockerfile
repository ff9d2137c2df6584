# What all images share: Python 3.11 on Debian 12, and an environment in which a clock, a locale, a
# hash seed or a core count cannot change a byte. PARENT is the pinned python image, or the base
# bootstrapped from Debian's packages where no registry answers.
ARG PARENT
FROM ${PARENT}
ENV LANG=C.UTF-8 \
    TZ=UTC \
    HOME=/tmp \
    PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONHASHSEED=0 \
    PYTHONUNBUFFERED=1
RUN python3 -m venv --without-pip /opt/venv
