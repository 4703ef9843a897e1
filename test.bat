@echo off
rem The tests: the twin of "make test" for Windows.
setlocal
cd /d "%~dp0"
chcp 65001 >nul
set PYTHONUTF8=1

if not exist .venv\Scripts\python.exe (
    python -c "import sys; sys.exit(sys.version_info < (3, 11))"
    if errorlevel 1 (
        echo Python 3.11 or newer is needed 1>&2
        exit /b 1
    )
    python -m venv .venv
    if errorlevel 1 exit /b 1
)
.venv\Scripts\python.exe -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
if errorlevel 1 exit /b 1
.venv\Scripts\python.exe -m pytest -n 2 --dist loadfile %*
exit /b %errorlevel%
